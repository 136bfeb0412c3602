"""Arithmetic, layout and threads for `--dtype auto` on a processor: chosen by measurement, once, and then kept.

bfloat16 and channels-last help one network and hurt the next (ResNet-18: 1.8 times the speed of plain float32 at 64×64,
0.6 times at 8×8, on one processor with bfloat16), so nothing is taken on trust. Each candidate makes a few of the run's
own steps, by turns with the plain form, and is taken where it is clearly quicker. The choice is recorded for this
network, shape and machine, so that every later run is computed alike; GPUs are not measured.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from engine.control import Control
from engine.device import Placement, cpu_name
from engine.events import SettingsTuned
from engine.models.registry import choose_stem, find_model
from engine.progress import LoadingStopped, Progress
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.learner import Learner, build_learner

TUNE_VARIABLE = "RESLAB_TUNE"
_CLEARLY = 1.1  # times as fast as the plain form; under it two measurements on a busy machine chose differently
_ROUNDS = 7
_TRIAL_S = 3.0  # for all rounds of one comparison
_TRIAL_PIXELS = 128 * 64 * 64  # of a trial's batch: 10 images of 224×224, the whole batch of 128 up to 64×64
_log = logging.getLogger("reslab")
Moments = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class _Form:
    """One way to compute: a placement and a number of threads."""

    placement: Placement
    num_threads: int


def is_tunable(spec: RunSpec, placement: Placement) -> bool:
    """Whether there is anything to choose: `auto` on a processor, and nobody asked to leave it."""
    asked = spec.dtype == "auto" and not spec.deterministic and os.environ.get(TUNE_VARIABLE, "1") != "0"
    return asked and placement.device.type == "cpu"


def tuning_key(spec: RunSpec, shape: DataShape) -> str:
    """What a choice holds for: processor, threads that may be had, version of torch, network, images and batch."""
    stem = choose_stem(find_model(spec.model), spec.stem, shape)
    images = (shape.channels, shape.height, shape.width, shape.num_classes, spec.batch_size)
    machine = (cpu_name(), torch.get_num_threads(), torch.__version__)
    return json.dumps([*machine, spec.model, stem, spec.norm, spec.optimizer, *images])


def tune(
    run: int, spec: RunSpec, shape: DataShape, moments: Moments, placement: Placement, control: Control
) -> Generator[Progress, None, SettingsTuned]:
    """Measure the ways to compute `spec` on this processor, and return the best.

    Raises:
        LoadingStopped: `control` asked for a stop.
    """
    shrunk = spec.replace(weights="random", freeze="none", backbone_rate=1.0)
    trial = _Trial(shrunk, shape, moments, control)
    all_threads = torch.get_num_threads()
    best, gain = _Form(placement, all_threads), 1.0
    fewer = [_Form(placement, count) for count in sorted({all_threads // 2, all_threads // 4} - {0}, reverse=True)]
    comparisons: Sequence[Callable[[_Form], list[_Form]]] = (
        lambda plain: fewer,
        lambda plain: [replace(plain, placement=other) for other in _other_placements(placement)],
    )
    with keep_threads():
        for number, others_of in enumerate(comparisons):
            yield Progress("measure", number, len(comparisons), "comparisons")
            found, times = trial.quickest(best, others_of(best))
            if times >= _CLEARLY:
                best, gain = found, gain * times
    chosen = best.placement
    return SettingsTuned(
        run, tuning_key(spec, shape), _name(chosen.dtype), _name(chosen.memory_format), best.num_threads, gain
    )


def apply_tuning(tuned: SettingsTuned, placement: Placement) -> Placement:
    """Set this thread's number of threads, and return the placement that was chosen."""
    torch.set_num_threads(tuned.num_threads)
    return replace(
        placement, dtype=getattr(torch, tuned.dtype), memory_format=getattr(torch, tuned.memory_format),
        gain=tuned.gain,
    )  # fmt: skip


@contextmanager
def keep_threads() -> Iterator[None]:
    """Put this thread's number of threads back afterwards."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _other_placements(plain: Placement) -> list[Placement]:
    others = [replace(plain, memory_format=torch.channels_last)]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        others.append(replace(plain, memory_format=torch.channels_last, dtype=torch.bfloat16))
    return others


def _name(value: torch.dtype | torch.memory_format) -> str:
    return str(value).removeprefix("torch.")


class _Trial:
    """Makes a run's own steps on random pixels."""

    def __init__(self, spec: RunSpec, shape: DataShape, moments: Moments, control: Control) -> None:
        self._spec, self._shape, self._moments, self._control = spec, shape, moments, control
        number = min(spec.batch_size, max(_TRIAL_PIXELS // (shape.height * shape.width), 2))
        draws = torch.Generator().manual_seed(0)
        size = (number, shape.channels, shape.height, shape.width)
        self._batch = (
            torch.randint(256, size, generator=draws, dtype=torch.uint8),
            torch.randint(shape.num_classes, (number,), generator=draws),
        )

    def quickest(self, plain: _Form, others: list[_Form]) -> tuple[_Form, float]:
        """The quickest form, and how many times as fast as `plain` it is. One that fails is left out."""
        learners: dict[_Form, Learner] = {}
        for form in (plain, *others):
            try:
                learners[form] = self._built(form)
            except Exception:  # no kernel for it, or no memory: it is not taken
                _log.info("%s cannot be tried", form, exc_info=True)
        seconds = {form: self._seconds(form, learner) for form, learner in learners.items()}
        began = time.perf_counter()
        for _ in range(_ROUNDS):
            if time.perf_counter() - began > _TRIAL_S:
                break
            for form, learner in learners.items():
                seconds[form] = min(seconds[form], self._seconds(form, learner))
        best = min(seconds, key=seconds.__getitem__, default=plain)
        return best, seconds[plain] / seconds[best] if plain in seconds else 1.0

    def _built(self, form: _Form) -> Learner:
        learner = build_learner(self._spec, self._shape, self._moments, form.placement)
        self._seconds(form, learner)  # the first step chooses algorithms and lays weights out
        return learner

    def _seconds(self, form: _Form, learner: Learner) -> float:
        """Of one step; the least of several is what the machine can do, the rest is what else it did."""
        if self._control.stop_requested:
            raise LoadingStopped
        torch.set_num_threads(form.num_threads)
        began = time.perf_counter()
        learner.compute_gradients(self._batch, 1, 0)
        learner.optimizer.step()
        return time.perf_counter() - began
