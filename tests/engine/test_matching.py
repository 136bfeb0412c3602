"""Names of others: under any prefix, with any last layer, else in the same order; and never by luck."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from engine.models.building import build_model
from engine.models.matching import LEAST_MATCHED, Matched, Target, match, mismatches
from engine.shape import DataShape
from engine.spec import RunSpec

SHAPE = DataShape(3, 32, 32, 10)


@pytest.fixture(scope="module")
def ours() -> Target:
    return target_of("resnet20")


def target_of(name: str) -> Target:
    return Target(build_model(RunSpec("cifar10", name, stem="small"), SHAPE).state_dict(), "conv1", "fc")


def renamed(state: Mapping[str, Tensor], **names: str) -> dict[str, Tensor]:
    """With each of these words in the names replaced."""
    found = {}
    for name, value in state.items():
        parts = [names.get(part, part) for part in name.split(".")]
        found[".".join(filter(None, parts))] = value + 0
    return found


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def is_whole(matched: Matched, target: Target) -> bool:
    return matched.is_complete and matched.state.keys() == target.tensors.keys()


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "model.", "backbone.", "net.", "_orig_mod.", "_orig_mod.module.", "module.model.net.", "odd.1."],
)
@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_prefix_is_removed_whatever_it_is(prefix: str, is_ordered: bool, ours: Target) -> None:
    found = match(prefixed(ours.tensors, prefix), ours, is_ordered)
    assert is_whole(found, ours)
    assert (found.prefix, found.by_order, found.last, found.outside) == (prefix, False, "", 0)


@pytest.mark.parametrize("name", ["linear", "classifier", "head", "output_layer"])
def test_the_last_layer_may_have_any_name_and_number_of_classes(name: str, ours: Target) -> None:
    theirs = renamed(ours.tensors, fc=name)
    theirs |= {f"{name}.weight": torch.ones(100, 64), f"{name}.bias": torch.ones(100)}
    for state in (theirs, prefixed(theirs, "module.")):
        found = match(state, ours, is_ordered=False)
        assert is_whole(found, ours)
        assert (found.last, found.state["fc.weight"].shape) == (name, (100, 64))


def test_the_last_layer_may_stand_beside_the_backbone(ours: Target) -> None:
    theirs = prefixed(ours.tensors, "backbone.")
    theirs = {name: value for name, value in theirs.items() if ".fc." not in name}
    theirs |= {"head.weight": torch.ones(10, 64), "head.bias": torch.ones(10), "loss.weight": torch.ones(10)}
    found = match(theirs, ours, is_ordered=True)
    assert is_whole(found, ours)
    assert (found.prefix, found.last, found.outside) == ("backbone.", "head", 1)


def test_the_head_of_a_self_supervised_training_is_no_last_layer(ours: Target) -> None:
    theirs = {name: value for name, value in prefixed(ours.tensors, "encoder.").items() if ".fc." not in name}
    for number, (rows, columns) in enumerate([(10, 64), (64, 10)]):
        theirs |= {f"head.{number}.weight": torch.ones(rows, columns), f"head.{number}.bias": torch.ones(rows)}
    found = match(theirs, ours, is_ordered=True)
    assert found.is_complete
    assert "fc.weight" not in found.state
    assert found.outside == 4


def test_layers_of_other_names_are_matched_in_their_order(ours: Target) -> None:
    theirs = renamed(
        ours.tensors, conv1="first", conv2="second", bn1="norm_a", bn2="norm_b", layer2="stage_b", fc="top"
    )
    found = match(prefixed(theirs, "model."), ours, is_ordered=True)
    assert found.by_order
    assert found.is_complete
    assert all(found.state[name] is not value for name, value in ours.tensors.items() if name in found.state)
    assert all(found.state[name].equal(ours.tensors[name]) for name in found.names)
    assert len(found.names) == 97
    unordered = match(theirs, ours, is_ordered=False)  # as in safetensors
    assert not unordered.by_order
    assert unordered.share < LEAST_MATCHED


def test_one_layer_of_another_shape_or_too_many_is_no_order(ours: Target) -> None:
    theirs = renamed(ours.tensors, conv1="first", conv2="second")
    wider = {**theirs, "layer2.0.second.weight": torch.ones(32, 32, 5, 5)}
    longer = {**theirs, "layer4.first.weight": torch.ones(64, 64, 3, 3)}
    kinds = {name.replace("bn1.bias", "bn1.shift"): value for name, value in theirs.items()}
    for state in (wider, longer, kinds):
        assert not match(state, ours, is_ordered=True).by_order


class _PreActivation(nn.Module):
    """Its tensors have the very sequence of shapes of a CIFAR ResNet."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, bias=False)
        widths = [16, *(width for width in (16, 32, 64) for _ in range(3))]
        for number in range(9):
            before, after = widths[number], widths[number + 1]
            block = nn.Sequential()
            block.add_module(f"{norm}1", nn.BatchNorm2d(before))
            block.add_module("conv1", nn.Conv2d(before, after, 3, bias=False))
            block.add_module(f"{norm}2", nn.BatchNorm2d(after))
            block.add_module("conv2", nn.Conv2d(after, after, 3, bias=False))
            stage = f"layer{number // 3 + 1}"
            if number % 3 == 0:
                self.add_module(stage, nn.Sequential())
            self.get_submodule(stage).add_module(str(number % 3), block)
        self.bn = nn.BatchNorm2d(64)
        self.fc = nn.Linear(64, 10)


@pytest.mark.parametrize("norm", ["bn", "norm"])
def test_a_network_of_the_same_shapes_and_other_blocks_is_another_one(norm: str, ours: Target) -> None:
    theirs = _PreActivation(norm).state_dict()
    shapes = [value.shape for name, value in theirs.items() if value.dim()]
    assert shapes == [value.shape for value in ours.tensors.values() if value.dim()]
    assert not match(theirs, ours, is_ordered=True).by_order


def test_a_name_that_both_have_is_the_same_layer() -> None:
    """Two layers of one shape, in the other order."""
    ours = nn.ModuleDict(
        {"conv1": nn.Conv2d(3, 8, 3), "a": nn.Linear(8, 8), "b": nn.Linear(8, 8), "fc": nn.Linear(8, 2)}
    )
    theirs = nn.ModuleDict({"conv1": ours["conv1"], "b": ours["b"], "c": ours["a"], "fc": ours["fc"]})
    target = Target(ours.state_dict(), "conv1", "fc")
    assert not match(theirs.state_dict(), target, is_ordered=True).by_order


def test_the_smaller_network_is_not_found_within_the_larger() -> None:
    small, large = target_of("resnet20"), target_of("resnet32")
    for target, state in ((small, large.tensors), (large, small.tensors)):
        found = match(state, target, is_ordered=True)
        assert found.share < LEAST_MATCHED
        assert (found.missing == ()) == (target is small)


@pytest.mark.parametrize(("width", "is_enough"), [(9, True), (11, False)])
def test_nine_tenths_of_the_values_without_both_ends_have_to_match(width: int, is_enough: bool) -> None:
    layers = {"conv1": nn.Conv2d(3, 8, 3), "a": nn.Linear(100, 100 - width, False), "b": nn.Linear(100, width, False)}
    target = Target(nn.ModuleDict({**layers, "fc": nn.Linear(8, 2)}).state_dict(), "conv1", "fc")
    state = {name: value for name, value in target.tensors.items() if not name.startswith("b.")}
    found = match(state, target, is_ordered=True)
    assert found.share == pytest.approx(1 - width / 100)
    assert (found.share >= LEAST_MATCHED) == is_enough
    assert found.missing == ("b.weight",)
    extra = {**target.tensors, "c.weight": torch.ones(100, 100 * width // (100 - width))}  # of theirs, likewise
    assert (match(extra, target, is_ordered=True).share >= LEAST_MATCHED) == is_enough


def test_what_does_not_match_is_named_five_times_at_most(ours: Target) -> None:
    theirs = renamed(ours.tensors, layer1="one", layer2="two", layer3="three\x1b[2J")
    theirs["conv1.weight"] = torch.ones(16, 3, 5, 5)
    said = mismatches(theirs, ours, match(theirs, ours, is_ordered=False))
    assert len(said) == 5
    assert said[0] == "conv1.weight is (16, 3, 5, 5) instead of (16, 3, 3, 3)"
    assert said[1] == "layer1.0.conv1.weight is missing (of its shape: one.0.conv1.weight)", said
    assert "\x1b" not in "".join(mismatches(theirs, target_of("resnet32"), match(theirs, ours, is_ordered=False)))


def test_counts_of_batches_may_be_missing_and_are_no_mismatch(ours: Target) -> None:
    theirs = {name: value for name, value in ours.tensors.items() if not name.endswith("num_batches_tracked")}
    assert match(theirs, ours, is_ordered=False).is_complete
