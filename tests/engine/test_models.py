"""Architectures: every figure of the torch-free table against the network that is really built."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.catalog.models import (
    MODELS,
    MORE_MODELS,
    ModelInfo,
    choose_stem,
    count_parameters,
    describe_changes,
    find_model,
)
from engine.control import RunControl
from engine.errors import ModelError, SpecError
from engine.models.building import build_model, check_weights
from engine.models.first_last import adapt_channels
from engine.models.imagenet import fetch_imagenet_weights
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec, Stem
from tests.running import context_of

GREY_8 = DataShape(1, 8, 8, 10)


def num_parameters(network: nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


@pytest.mark.parametrize(
    "info",
    [pytest.param(info, marks=pytest.mark.slow if (info.depth or 0) > 50 else ()) for info in MODELS],
    ids=lambda info: info.name,
)
def test_the_tables_counts_are_those_of_the_built_networks(info: ModelInfo) -> None:
    cases: tuple[tuple[DataShape, Stem], ...] = (
        (GREY_8, "imagenet"),
        (DataShape(3, 32, 32, 100), "small"),
        (DataShape(3, 224, 224, 1000), "auto"),
    )
    for shape, stem in cases:
        with torch.device("meta"):
            network = build_model(RunSpec("digits", info.name, stem=stem), shape)
        assert num_parameters(network) == count_parameters(info, shape, choose_stem(info, stem, shape))


def test_the_reports_network_has_its_count() -> None:
    assert count_parameters(find_model("resnet18"), GREY_8, "imagenet") == 11_175_370
    assert count_parameters(find_model("resnet18"), DataShape(3, 224, 224, 1000), "imagenet") == 11_689_512
    assert describe_changes(find_model("resnet18"), GREY_8, "imagenet") == ("conv1 3→1 channels", "fc 1000→10 classes")


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_state_alone() -> None:
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    spec = RunSpec("digits", "resnet18", seed=3)
    first, second = (build_model(spec, GREY_8).state_dict() for _ in range(2))
    assert torch.random.get_rng_state().equal(before)
    assert all(first[name].equal(second[name]) for name in first)
    other = build_model(spec.replace(seed=4), GREY_8).state_dict()
    assert not first["conv1.weight"].equal(other["conv1.weight"])


def test_group_norm_replaces_every_batch_norm() -> None:
    network = build_model(RunSpec("digits", "resnet18", norm="group"), GREY_8)
    kinds = [type(module) for module in network.modules()]
    assert nn.BatchNorm2d not in kinds
    assert kinds.count(nn.GroupNorm) == 20


def imagenet_form(tmp_path: Path) -> tuple[nn.Module, Path]:
    from torchvision import models

    network = models.resnet18(weights=None)
    path = tmp_path / "own.safetensors"
    save_file(network.state_dict(), path)
    return network.eval(), path


def test_a_grey_image_and_its_rgb_copy_give_the_same_features(tmp_path: Path) -> None:
    network, path = imagenet_form(tmp_path)
    fitted = build_model(RunSpec("digits", "resnet18", weights=str(path)), DataShape(1, 32, 32, 10)).eval()
    grey = torch.randn(2, 1, 32, 32)
    network.fc = fitted.fc = nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(fitted(grey), network(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("residual", "plain"), [("resnet18", "plain18"), ("resnet50", "plain50"), ("resnet20", "plain20")]
)
def test_a_residual_network_minus_its_shortcuts_is_the_plain_one(residual: str, plain: str) -> None:
    twins = [build_model(RunSpec("digits", name, seed=5), GREY_8).eval() for name in (residual, plain)]
    states = [dict(twin.named_parameters()) for twin in twins]
    shared = {name for name in states[0] if "downsample" not in name}
    assert set(states[1]) == shared
    assert all(states[0][name].equal(states[1][name]) for name in shared)
    images = torch.randn(2, 1, 8, 8)
    with torch.no_grad():
        assert not twins[0](images).allclose(twins[1](images))
        without_shortcuts(twins[0])
        twins[0].load_state_dict(states[1], strict=False)
        torch.testing.assert_close(twins[0](images), twins[1](images))


def without_shortcuts(network: nn.Module) -> None:
    """Take the shortcuts out of a residual network by another road: subtract what the block is about to add."""
    for block in network.modules():
        if not {"conv1", "conv2"} <= dict(block.named_children()).keys() or hasattr(block, "layer1"):
            continue
        last = "bn3" if hasattr(block, "bn3") else "bn2"
        inputs: list[Tensor] = []

        def keep(module: nn.Module, given: tuple[Tensor, ...], inputs: list[Tensor] = inputs) -> None:
            inputs[:] = given

        def subtract(
            module: nn.Module, given: object, out: Tensor, block: nn.Module = block, inputs: list[Tensor] = inputs
        ) -> Tensor:
            (x,) = inputs
            projection: Any = getattr(block, "_identity", None) or getattr(block, "downsample", None)
            added: Tensor = x if projection is None else projection(x)
            return out - added

        block.register_forward_pre_hook(keep)
        block.get_submodule(last).register_forward_hook(subtract)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_the_cifar_family_has_the_papers_counts(depth: int, millions: float) -> None:
    """He et al. 2015, table 6."""
    for family in ("resnet", "plain"):
        count = count_parameters(find_model(f"{family}{depth}"), DataShape(3, 32, 32, 10), "small")
        assert count is not None
        assert round(count / 1e6, 2 if millions < 1 else 1) == millions


def test_the_cifar_family_has_its_depth() -> None:
    network = build_model(RunSpec("cifar10", "resnet56"), DataShape(3, 32, 32, 10))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == 56


def test_there_are_no_imagenet_weights_for_a_plain_network() -> None:
    with pytest.raises(ModelError, match="no ImageNet weights for plain18"):
        check_weights(RunSpec("digits", "plain18", weights="imagenet"))


def test_adapted_filters_answer_to_equal_channels_as_before() -> None:
    weight = torch.randn(4, 3, 7, 7)
    for channels in (1, 2, 5):
        torch.testing.assert_close(adapt_channels(weight, channels).sum(1), weight.sum(1))


def test_weights_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    _, path = imagenet_form(tmp_path)
    with pytest.raises(ModelError, match="do not fit resnet34"):
        build_model(RunSpec("digits", "resnet34", weights=str(path)), GREY_8)
    with pytest.raises(ModelError, match="choose norm=batch"):
        build_model(RunSpec("digits", "resnet18", weights=str(path), norm="group"), GREY_8)
    (tmp_path / "junk.pth").write_bytes(b"junk")
    with pytest.raises(ModelError, match="cannot read the weights"):
        build_model(RunSpec("digits", "resnet18", weights=str(tmp_path / "junk.pth")), GREY_8)
    with pytest.raises(ModelError, match="no weights file"):
        check_weights(RunSpec("digits", "resnet18", weights=str(tmp_path / "none.pth")))


def test_imagenet_weights_offline_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **named: object) -> None:
        raise urllib.error.URLError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(ModelError, match="Network is unreachable") as missing:
        list(fetch_imagenet_weights("resnet18", RunControl()))
    assert "\n" not in str(missing.value)
    assert "put resnet18-f37072fd.pth there" in str(missing.value)
    assert str(tmp_path) in str(missing.value)


def test_imagenet_weights_that_are_there_are_used_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, _ = imagenet_form(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    cached = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(network.state_dict(), cached)

    def offline(*arguments: object, **named: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    with pytest.raises(ModelError):  # not torchvision's file, and no network to fetch it
        list(fetch_imagenet_weights("resnet18", RunControl()))
    fitted = build_model(RunSpec("digits", "resnet18", weights="imagenet"), GREY_8)
    assert fitted.get_parameter("layer4.1.conv2.weight").equal(network.get_parameter("layer4.1.conv2.weight"))


@pytest.mark.usefixtures("few_digits")
def test_a_frozen_backbone_stays_as_it_was_and_the_last_layer_learns(tmp_path: Path, folders: Folders) -> None:
    from engine.training.loop import train

    _, path = imagenet_form(tmp_path)
    spec = RunSpec("digits", "resnet18", epochs=1, weights=str(path), freeze="backbone", learning_rate=0.1)
    context = context_of(spec, folders)
    for _ in train(spec, context):
        pass
    trained: nn.Module = context.ledger.get(("model", 1))  # type: ignore[assignment]
    fresh = build_model(spec, GREY_8).state_dict()
    changed = {name for name, value in trained.state_dict().items() if not value.equal(fresh[name])}
    assert changed == {"conv1.weight", "fc.weight", "fc.bias"}


def test_the_backbone_learns_at_its_share_of_the_rate(tmp_path: Path) -> None:
    from engine.step.optim import build_optimizer, set_learning_rate

    _, path = imagenet_form(tmp_path)
    spec = RunSpec("digits", "resnet18", weights=str(path), backbone_rate=0.1)
    network = build_model(spec, GREY_8)
    optimizer = build_optimizer(spec, network)
    set_learning_rate(optimizer, 0.5)
    rates = {id(values): group["lr"] for group in optimizer.param_groups for values in group["params"]}
    assert rates[id(network.get_parameter("fc.weight"))] == 0.5
    assert rates[id(network.get_parameter("layer1.0.conv1.weight"))] == pytest.approx(0.05)
    assert len(rates) == len(list(network.parameters()))


def test_freezing_random_weights_is_refused() -> None:
    with pytest.raises(SpecError, match="freeze: needs trained weights"):
        RunSpec("digits", "resnet18", freeze="backbone")
    with pytest.raises(SpecError, match="backbone rate: needs trained weights"):
        RunSpec("digits", "resnet18", backbone_rate=0.1)


@pytest.mark.parametrize("info", MORE_MODELS, ids=lambda info: info.name)
@pytest.mark.slow
def test_every_network_of_torchvision_is_fitted_and_steps(info: ModelInfo) -> None:
    """Grey images, five classes, at 64 pixels or what it takes at least."""
    from engine.step.gradients import stages_of
    from engine.step.guard import StepGuard
    from engine.step.optim import build_optimizer

    side = info.multiple * -(-max(info.min_size, 64) // info.multiple)
    shape = DataShape(1, side, side, 5)
    spec = RunSpec("digits", info.name, learning_rate=0.001, momentum=0)
    network = build_model(spec, shape)
    assert num_parameters(network) == count_parameters(info, shape, choose_stem(info, spec.stem, shape))
    assert len(describe_changes(info, shape, choose_stem(info, spec.stem, shape))) == 2
    optimizer = build_optimizer(spec, network)
    StepGuard(network, optimizer, torch.device("cpu"))
    weight = next(network.parameters())
    before = weight.detach().clone()
    logits = network.train()(torch.randn(4, 1, side, side))
    assert logits.shape == (4, 5)
    torch.autograd.backward(nn.functional.cross_entropy(logits, torch.tensor([0, 4, 1, 3])))
    optimizer.step()
    assert all(value.isfinite().all() for value in network.parameters())
    assert not weight.equal(before)
    stages = stages_of(network)
    assert 3 <= len(stages) <= 10
    assert sum(map(len, stages.values())) == len(list(network.parameters()))
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 1, side, side)).shape == (1, 5)


def test_the_table_holds_every_classification_network_of_torchvision() -> None:
    from torchvision import models

    listed = {info.name for info in (*MODELS, *MORE_MODELS)}
    assert set(models.list_models(module=models)) <= listed


@pytest.mark.parametrize(
    ("name", "side", "words"), [("inception_v3", 74, "75 pixels"), ("vgg11", 31, "32 pixels"), ("vit_b_16", 28, "32,")]
)
def test_images_that_a_network_cannot_take_are_refused_with_what_to_do(name: str, side: int, words: str) -> None:
    with pytest.raises(ModelError, match="image size") as refused:
        build_model(RunSpec("digits", name), DataShape(1, side, side, 10))
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_1", "vgg11", "densenet121", "googlenet"])
def test_the_least_size_is_the_least(name: str) -> None:
    info = find_model(name)
    network = build_model(RunSpec("digits", name), DataShape(3, info.min_size, info.min_size, 10))
    less = info.min_size - 1
    with pytest.raises(RuntimeError):
        network(torch.randn(2, 3, less, less))


def test_a_norm_layer_of_ones_choice_is_for_resnets_alone() -> None:
    with pytest.raises(SpecError, match="own normalisation"):
        RunSpec("digits", "vgg11", norm="group")
