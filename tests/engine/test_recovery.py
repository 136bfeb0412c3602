"""Allocations that fail, wherever they may: the run goes on, and its figures are those of an untroubled one."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.analysis.tables import comparison_rows, facts, result_table
from engine.data.images import Split
from engine.device import Placement
from engine.events import (
    EpochEnded,
    Evaluated,
    Event,
    MemoryForecasted,
    MemoryRecovered,
    RunEnded,
    StepsCompleted,
)
from engine.lab import Lab
from engine.memory.freeing import free_memory
from engine.memory.out_of_memory import is_out_of_memory, requested_bytes
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.learner import Learner, build_learner, micro_batch_bounds
from engine.store.store import Store
from engine.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = RunSpec("digits", "resnet20", epochs=2, batch_size=16)
few_digits = pytest.mark.usefixtures("few_digits")
CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "test")
NO_MEMORY = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 24.00 GiB"


def of(events: list[Event], kind: type[Any]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


def story(events: list[Event]) -> tuple[list[float], list[bytes]]:
    """What a run's figures come down to: every loss and every prediction."""
    losses = [loss for event in of(events, StepsCompleted) for loss in event.losses]
    return losses, [event.predictions for event in of(events, Evaluated)]


class Allocations(TorchDispatchMode):
    """Counts the operations that allocate; `fails` says of each, by its number, whether it runs out of memory."""

    def __init__(self, fails: Callable[[int], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fails = fails
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        if any(id(leaf.untyped_storage()) not in given for leaf in made):
            self.number += 1
            if self.fails(self.number):
                raise torch.OutOfMemoryError(NO_MEMORY)
        return out


def failing_steps(monkeypatch: pytest.MonkeyPatch, plan: dict[int, list[int]]) -> None:
    """Attempt number n of all attempts at a step fails in its m-th allocation, for each m of plan[n], one a try."""
    original = Learner.compute_gradients
    attempts = 0

    def compute(self: Learner, *arguments: Any) -> Any:
        nonlocal attempts
        if torch.utils._python_dispatch._get_current_dispatch_mode_stack():
            return original(self, *arguments)  # the forecast's own
        attempts += 1
        at = plan.get(attempts)
        if not at:
            return original(self, *arguments)
        wanted = at[0]
        with Allocations(lambda number: number == wanted) as mode:
            try:
                return original(self, *arguments)
            finally:
                assert mode.number >= wanted, "the plan names an allocation that there is not"

    monkeypatch.setattr(Learner, "compute_gradients", compute)


def weights_of(folders: Folders, number: int) -> dict[str, Tensor]:
    with Store(folders.database) as store:
        weights = store.details(number).weights
    assert weights is not None
    return load_checkpoint(folders.run_folder(number) / weights.file, weights.sha256).model


@few_digits
@pytest.mark.parametrize(
    ("model", "seed"),
    [
        ("resnet20", 0),
        pytest.param("squeezenet1_1", 0, marks=pytest.mark.slow),
        pytest.param("resnet20", 1, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", 1, marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", 0, marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", 1, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_run_with_failures_at_random_steps_is_the_untroubled_one_bit_for_bit(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, seed: int, model: str
) -> None:
    """Twice in one step and once in a later one, anywhere in it; from the second failure on activations are computed
    twice. Shortcuts, dropout, rectifiers that overwrite what they are given.
    """
    spec = SPEC.replace(model=model, on_oom="checkpoint", batch_size=32, flip=True)
    if model != "resnet20":
        spec = spec.replace(image_size=32, learning_rate=0.001)
    untroubled = list(Lab(folders).train(spec).events())
    draws = random.Random(seed)
    twice, once = draws.randint(1, 6), draws.randint(9, 12)
    plan = {attempt: [draws.randint(1, 60)] for attempt in (twice, twice + 1, once)}
    failing_steps(monkeypatch, plan)
    troubled = list(Lab(folders).train(spec).events())
    actions = [event.action for event in of(troubled, MemoryRecovered)]
    assert any("recomputing activations" in action for action in actions), (plan, actions, of(troubled, RunEnded))
    assert story(troubled) == story(untroubled)
    before, after = weights_of(folders, 1), weights_of(folders, 2)
    assert before.keys() == after.keys()
    assert all(before[name].equal(after[name]) for name in before)


@few_digits
@pytest.mark.parametrize("attempt", [1, pytest.param(6, marks=pytest.mark.slow), 12])
def test_a_failure_at_the_first_a_middle_and_the_last_step_changes_nothing(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    spec = SPEC.replace(epochs=1)
    untroubled = list(Lab(folders).train(spec).events())
    failing_steps(monkeypatch, {attempt: [40]})
    lab = Lab(folders)
    live = live_bytes()
    troubled = list(lab.train(spec).events())
    assert story(troubled) == story(untroubled)
    (recovered,) = of(troubled, MemoryRecovered)
    assert (recovered.step, recovered.micro_batch) == (attempt, None)
    del troubled, untroubled
    free_memory(lab.ledger)
    assert live_bytes() <= 1.02 * live


@few_digits
def test_an_evaluation_goes_on_in_smaller_parts(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.step import forward as forwarding

    untroubled = list(Lab(folders).train(SPEC).events())
    original = forwarding.forward

    def forward(model: Any, images: Tensor, labels: Tensor, placement: Any) -> Any:
        if len(labels) > 12:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return original(model, images, labels, placement)

    monkeypatch.setattr("engine.training.evaluation.forward", forward)
    troubled = list(Lab(folders).train(SPEC).events())
    assert of(troubled, MemoryRecovered)[-1].action == "evaluating 12 images at once"
    assert [event.confusion for event in of(troubled, Evaluated)] == [e.confusion for e in of(untroubled, Evaluated)]


@few_digits
def test_images_that_cannot_be_uploaded_at_first_are_uploaded_after_freeing(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = Split.to, []

    def to(self: Split, device: torch.device) -> Split:
        calls.append(len(self))
        if len(calls) == 1:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return original(self, device)

    monkeypatch.setattr(Split, "to", to)
    assert list(Lab(folders).train(SPEC.replace(epochs=1)).events())[-1].status == "completed"  # type: ignore[union-attr]
    assert len(calls) == 3


@few_digits
@pytest.mark.slow
def test_every_third_allocation_fails_and_the_run_completes(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the large ones: an upload, the building, each attempt at a step, each batch of an evaluation."""
    from engine.step.forward import forward
    from engine.training import setup

    counted = 0

    def third(original: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: Any, **more: Any) -> Any:
            nonlocal counted
            counted += 1
            if counted % 3 == 0:
                raise torch.OutOfMemoryError(NO_MEMORY)
            return original(*arguments, **more)

        return work

    untroubled = list(Lab(folders).train(SPEC).events())
    monkeypatch.setattr(Split, "to", third(Split.to))
    monkeypatch.setattr(setup, "build_learner", third(build_learner))
    monkeypatch.setattr("engine.training.evaluation.forward", third(forward))
    monkeypatch.setattr(Learner, "compute_gradients", third(Learner.compute_gradients))
    lab, live = Lab(folders), live_bytes()
    troubled = list(lab.train(SPEC).events())
    assert of(troubled, RunEnded)[0].status == "completed"
    assert story(troubled) == story(untroubled)
    assert len(of(troubled, MemoryRecovered)) >= 12
    del troubled
    free_memory(lab.ledger)
    assert live_bytes() <= 1.02 * live


@few_digits
def test_where_whole_batches_do_not_fit_they_are_cut_and_the_run_is_marked(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Learner.one_part

    def one_part(self: Learner, images: Tensor, labels: Tensor, share: float | None) -> Any:
        if len(labels) > 40:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return original(self, images, labels, share)

    monkeypatch.setattr(Learner, "one_part", one_part)
    events = list(Lab(folders).train(SPEC.replace(batch_size=128)).events())
    assert of(events, RunEnded)[0].status == "completed"
    assert of(events, MemoryRecovered)[-1].micro_batch == 32
    assert sum(event.train_accuracy >= 0 for event in of(events, EpochEnded)) == 2
    assert of(events, StepsCompleted)[-1].images == 2 * 180
    with Store(folders.database) as store:
        details = store.details(1)
    assert details.memory.micro_batch == 32
    assert details.intact
    assert result_table(details)[0] == ("", "untrained", "trained, parts of 32")
    assert ("note", "trained in micro-batches of 32: batch-norm statistics differ") in facts(details, folders.home)
    assert comparison_rows([details.record] * 2, True, [32, None])[-1] == ("batches in parts of", "32", "whole", "")


@pytest.mark.parametrize("micro_batch", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (5, 16, 31))])
def test_micro_batches_add_up_to_the_gradient_of_the_whole(micro_batch: int) -> None:
    """With group-norm, which does not mind who else is in a batch.

    The network is float64, for in float32 matrix products over 2 and over 37 images round by 4e-6 of the norm apart;
    there every element is held to 1e-6 of the norm.
    """
    whole, summed = gradients_of(micro_batch, torch.float64)
    assert summed[0] == pytest.approx(whole[0], abs=1e-6)
    assert summed[1] == whole[1]
    assert (summed[2] - whole[2]).norm() < 1e-6 * whole[2].norm()
    whole, summed = gradients_of(micro_batch, torch.float32)
    assert (summed[2] - whole[2]).abs().max() < 1e-6 * whole[2].norm()


def gradients_of(micro_batch: int, dtype: torch.dtype) -> list[tuple[float, int, torch.Tensor]]:
    """Loss, right images and gradient of a batch, whole and in parts."""
    spec = RunSpec("digits", "resnet18", norm="group", label_smoothing=0.1)
    draws = torch.Generator().manual_seed(0)
    batch = (
        torch.randint(0, 256, (37, 1, 8, 8), generator=draws, dtype=torch.uint8),
        torch.randint(0, 10, (37,), generator=draws),
    )
    found = []
    for size in (None, micro_batch):
        learner = build_learner(spec, DataShape(1, 8, 8, 10), ((0.3,), (0.4,)), CPU)
        learner.model.to(dtype).register_forward_pre_hook(lambda module, given: (given[0].to(dtype),))
        loss, right = learner.compute_gradients(batch, 1, 0, size)
        gradients = [values.grad for values in learner.model.parameters() if values.grad is not None]
        found.append((float(loss), int(right), torch.cat([gradient.flatten() for gradient in gradients])))
    return found


@pytest.mark.parametrize(("number", "micro_batch"), [(128, 32), (37, 2), (3, 2), (2, 2), (97, 96), (5, 4)])
def test_parts_hold_every_image_once_and_never_a_single_one(number: int, micro_batch: int) -> None:
    parts = list(micro_batch_bounds(number, micro_batch))
    assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])]
    assert parts[-1][1] == number
    sizes = [stop - start for start, stop in parts]
    assert min(sizes) >= 2
    assert max(sizes) <= max(micro_batch, 3)  # three images cannot be cut into twos


@few_digits
def test_larger_parts_are_tried_again_after_a_while(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.training import out_of_memory as recovery

    monkeypatch.setattr(recovery, "CALM_STEPS", 3)
    failing_steps(monkeypatch, {2: [10], 3: [10], 4: [10]})
    events = list(Lab(folders).train(SPEC.replace(epochs=1)).events())
    sizes = [(event.step, event.micro_batch) for event in of(events, MemoryRecovered)]
    assert sizes == [(2, None), (2, 8), (2, 4), (5, 8), (8, None)]


@few_digits
def test_a_try_that_fails_goes_back_and_the_next_one_waits_twice_as_long(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.training import out_of_memory as recovery

    original = Learner.one_part

    def one_part(self: Learner, pixels: Tensor, labels: Tensor, share: float | None) -> Any:
        if len(labels) > 8:
            raise torch.OutOfMemoryError(NO_MEMORY)
        return original(self, pixels, labels, share)

    monkeypatch.setattr(recovery, "CALM_STEPS", 2)
    monkeypatch.setattr(Learner, "one_part", one_part)
    events = list(Lab(folders).train(SPEC).events())
    tries = [event.step for event in of(events, MemoryRecovered) if event.action.startswith("trying")]
    assert tries[:3] == [3, 7, 15]
    assert of(events, MemoryRecovered)[-1].micro_batch == 8
    assert of(events, StepsCompleted)[-1].images == 2 * 180


def test_what_the_forecast_cut_on_a_host_is_not_tried_whole(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.training import out_of_memory as recovery

    monkeypatch.setattr(recovery, "CALM_STEPS", 1)
    monkeypatch.setenv("RESLAB_MEMORY_GIB", str(12 / 1024))
    spec = SPEC.replace(epochs=1, batch_size=128)
    events = list(Lab(folders).train(spec).events())
    assert of(events, RunEnded)[0].status == "completed"
    (cut,) = of(events, MemoryRecovered)
    assert (cut.step, cut.micro_batch) == (0, 64)


@few_digits
def test_where_nothing_helps_the_run_says_what_is_missing_and_the_next_one_trains(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*arguments: Any) -> Any:
        raise torch.OutOfMemoryError(NO_MEMORY)

    lab = Lab(folders)
    with monkeypatch.context() as patched:
        patched.setattr(Learner, "one_part", nothing)
        end = of(list(lab.train(SPEC).events()), RunEnded)[0]
    assert end.status == "failed"
    assert "a step with 2 images does not fit, an allocation of 2.0 GiB failed" in end.error
    assert "are free, held are resnet20 #1" in end.error
    assert of(list(lab.train(SPEC).events()), RunEnded)[0].status == "completed"


@few_digits
def test_a_run_that_will_not_fit_into_the_hosts_memory_is_not_begun(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There an allocation would not fail: the system would end the process."""
    monkeypatch.setenv("RESLAB_MEMORY_GIB", str(2 / 1024))
    end = of(list(Lab(folders).train(SPEC).events()), RunEnded)[0]
    assert (end.status, end.steps) == ("failed", 0)
    assert "resnet20 will not fit: it needs" in end.error
    assert "with 2 images at once, 2.0 MiB available, held are digits" in end.error


@few_digits
def test_a_run_that_shall_rather_fail_does_so_at_the_second_failure(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_steps(monkeypatch, {2: [5], 3: [5]})
    end = of(list(Lab(folders).train(SPEC.replace(on_oom="fail")).events()), RunEnded)[0]
    assert end.status == "failed"
    assert end.steps <= 1  # the second was not made
    assert "a step with 16 images does not fit" in end.error
    assert "choose a smaller image size or network" in end.error


def live_tensors() -> Iterator[Tensor]:
    """But for those without contents, which torch's compiler keeps of what another test compiled."""
    gc.collect()
    return (item for item in gc.get_objects() if issubclass(type(item), Tensor) and not isinstance(item, FakeTensor))


def live_bytes() -> int:
    """Bytes of all storages that any tensor of this process holds."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in live_tensors()}
    return sum(storages.values())


@few_digits
@pytest.mark.parametrize("failing", [False, True])
def test_freeing_a_hundred_times_leaves_no_tensor_of_a_finished_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, failing: bool
) -> None:
    gc.collect()
    gc.freeze()  # what is there already is passed over from here on: a hundred collections are quick
    lab = Lab(folders)
    if failing:
        failing_steps(monkeypatch, {number: [30] for number in range(3, 40)})
    events = list(lab.train(SPEC.replace(epochs=1, on_oom="fail")).events())
    assert of(events, RunEnded)[0].status == ("failed" if failing else "completed")
    freed = [free_memory(lab.ledger) for _ in range(100)]
    assert len(freed[0].dropped) == 2
    assert not any(item.dropped or item.kept for item in freed[1:])
    assert [tensor.shape for tensor in live_tensors()] == []


@few_digits
def test_what_will_not_go_is_named_with_its_holder(folders: Folders) -> None:
    lab = Lab(folders)
    list(lab.train(SPEC.replace(epochs=1)).events())
    held = {"mine": next(iter(lab.ledger.get(("model", 1)).parameters()))}  # type: ignore[union-attr]
    freed = free_memory(lab.ledger)
    assert len(freed.kept) == 1
    assert "resnet20 #1" in freed.kept[0]
    assert "held by a dict" in freed.kept[0]
    assert "a list" not in freed.kept[0]  # of the search itself
    del held


@few_digits
def test_the_ledgers_sum_is_what_the_storages_hold(folders: Folders) -> None:
    """Between two steps of a live run: parameters, gradients, optimizer, dataset, copies; within 2 %."""
    gc.collect()
    before = live_bytes()
    lab = Lab(folders)
    events = lab.train(SPEC.replace(model="resnet18")).events()
    for event in events:
        if isinstance(event, StepsCompleted):
            break
    held = live_bytes() - before
    assert lab.ledger.num_bytes == pytest.approx(held, rel=0.02)
    events.close()
    holdings = {holding.kind: dict(holding.parts) for holding in lab.ledger.holdings()}
    assert holdings["model"].keys() == {"parameters"}
    assert lab.ledger.num_bytes == pytest.approx(live_bytes() - before, rel=0.02)


@pytest.mark.slow
def test_ten_runs_that_need_several_times_the_memory_finish_by_themselves(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound of 20 MiB on the CPU; forecasts of 15 to 55 MiB each, the larger ones in micro-batches."""
    bound = 20 * 2**20
    monkeypatch.setenv("RESLAB_MEMORY_GIB", str(bound / 2**30))
    lab = Lab(folders)
    wanted, dropped, cut = 0, 0, 0
    for number in range(10):
        spec = RunSpec("digits", ("resnet20", "resnet32")[number % 2], epochs=1, batch_size=128 * (1 + number // 5))
        events = list(lab.train(spec).events())
        assert of(events, RunEnded)[0].status == "completed"
        (said,) = of(events, MemoryForecasted)
        assert said.peak_bytes <= bound
        assert lab.ledger.num_bytes <= bound
        cut += any(event.micro_batch for event in of(events, MemoryRecovered))
        dropped += said.dropped_bytes
        wanted += said.peak_bytes
    assert wanted > 5 * bound
    assert dropped > 0
    assert cut >= 3


@pytest.mark.parametrize(
    ("error", "ran", "asked"),
    [
        (torch.OutOfMemoryError(NO_MEMORY), True, 2 * 2**30),
        (MemoryError(), True, None),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
                "you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
            ),
            True,
            4096,
        ),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True, None),
        (RuntimeError("shapes do not match"), False, None),
        (ValueError("out of memory"), False, None),
    ],
)
def test_errors_are_told_apart(error: Exception, ran: bool, asked: int | None) -> None:
    assert is_out_of_memory(error) is ran
    assert requested_bytes(error) == asked
