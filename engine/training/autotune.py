"""Arithmetic, layout and threads for `--dtype auto` on a processor: chosen by measurement, and kept for later runs.

bfloat16 and channels-last help one network and hurt the next (ResNet-18: 1.8 times the speed of plain float32 at 64×64,
0.6 times at 8×8, on one processor with bfloat16), so nothing is taken on trust. Each candidate makes a few of the run's
own steps, in turns with the plain form, and is taken where every turn agrees that it is clearly quicker: what a busy
moment decides, the next moment denies. All of it takes no more than 5 % of what the run is expected to take, or 3 s.
The choice is recorded for this network, shape and machine together with the load that others put on the processor, so
that later runs are computed alike; it is measured again once the machine is quieter, or where a later run is much
quicker or slower than the first one was. GPUs are not measured.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter

import torch

from engine.catalog.models import choose_stem, find_model
from engine.control import Control
from engine.cores import OthersMeter
from engine.device import Placement, cpu_name
from engine.environment import TUNE, is_on
from engine.events import SettingsTuned, TuningChecked
from engine.progress import LoadingStopped, Progress
from engine.shape import DataShape
from engine.spec import RunSpec, affecting, settings_of
from engine.step.learner import Learner, build_learner

QUIET_CORES = 0.25  # that others may use while it is measured
CLEARLY = 1.1  # times as fast as the plain form, by the median of the pairs
_PAIRS = 5  # that must all agree; a form that is no quicker passes once in 32 times, and fails the median then
_LEAST_S, _SHARE = 3.0, 0.05  # of the run's time, for all of the measuring
_LONGEST_BLOCK_S = 0.2
_TRIAL_PIXELS = 128 * 64 * 64  # of a trial's batch: 10 images of 224×224, the whole batch of 128 up to 64×64
LEAST_CHECK_S = 3.0  # of training, before a run's speed says anything
_OUTSIDE = 1.5  # times as fast or as slow as the first run
_STATED = ("model", "stem", "norm", "optimizer", "batch_size", "device", "dtype")  # in every key, or what is measured
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Form:
    """One way to compute: a placement and a number of threads."""

    placement: Placement
    num_threads: int


class _TimeIsUpError(Exception):
    """The next block would take longer than there is time."""


def is_tunable(spec: RunSpec, placement: Placement) -> bool:
    """Whether there is anything to choose: `auto` on a processor, and nobody asked to leave it."""
    asked = spec.dtype == "auto" and not spec.deterministic and is_on(TUNE)
    return asked and placement.device.type == "cpu"


def autotune_key(spec: RunSpec, shape: DataShape) -> str:
    """What a choice holds for: processor, threads that may be had, version of torch, network, images and batch; and
    what else affects a step, where it is not at its default: a new setting leaves the older choices as they are.
    """
    stem = choose_stem(find_model(spec.model), spec.stem, shape)
    images = (shape.channels, shape.height, shape.width, shape.num_classes, spec.batch_size)
    machine = (cpu_name(), torch.get_num_threads(), torch.__version__)
    known = settings_of(RunSpec)
    others = {name: getattr(spec, name) for name in affecting("step") if name not in _STATED}
    changed = {name: value for name, value in others.items() if value != known[name].default}
    stated = [*machine, spec.model, stem, spec.norm, spec.optimizer, *images]
    return json.dumps([*stated, changed] if changed else stated)


def known_choice(
    autotune_choices: Mapping[str, SettingsTuned], spec: RunSpec, shape: DataShape, busy_cores: float | None
) -> SettingsTuned | None:
    """What earlier runs measured, unless it is to be measured again: others use `busy_cores` now."""
    tuned = autotune_choices.get(autotune_key(spec, shape))
    if tuned is None or tuned.due:
        return None
    was_busy = tuned.busy_cores is not None and tuned.busy_cores > QUIET_CORES
    return None if was_busy and busy_cores is not None and busy_cores <= QUIET_CORES else tuned


@dataclass(frozen=True, slots=True)
class TrialImages:
    """What the images are like, mean and std per channel for pixels from 0 to 1, and how many the run trains on over
    all epochs: that says how long the measuring may take.
    """

    shape: DataShape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    number: int


def tune(
    run: int, spec: RunSpec, images: TrialImages, placement: Placement, control: Control
) -> Generator[Progress, None, SettingsTuned | None]:
    """Measure the ways to compute `spec` on this processor, and return the best; None where there is no time for it.

    Raises:
        LoadingStopped: `control` asked for a stop.
    """
    trial = Trial(spec.replace(weights="random", freeze="none", backbone_rate=1.0), images, control)
    all_threads, others = torch.get_num_threads(), OthersMeter()
    best, gain = Form(placement, all_threads), 1.0
    with keep_threads():
        trial.begin(best)
        fewer = [Form(placement, count) for count in sorted({all_threads // 2, all_threads // 4} - {0}, reverse=True)]
        placements = _other_placements(placement)
        trial.total = _PAIRS * (len(fewer) + len(placements))
        found, times = yield from trial.quickest(best, fewer)
        best, gain = found, times
        found, times = yield from trial.quickest(best, [replace(best, placement=other) for other in placements])
        best, gain = found, gain * times
    if trial.num_pairs == 0:
        return None
    chosen = best.placement
    return SettingsTuned(
        run, autotune_key(spec, images.shape), _name(chosen.dtype), _name(chosen.memory_format), best.num_threads, gain,
        busy_cores=others.read(), due=trial.out_of_time, measured_at=time.time(),
    )  # fmt: skip


def apply_choice(tuned: SettingsTuned, placement: Placement) -> Placement:
    """Set this thread's number of threads, and return the placement that was chosen."""
    torch.set_num_threads(tuned.num_threads)
    return replace(
        placement, dtype=getattr(torch, tuned.dtype), memory_format=getattr(torch, tuned.memory_format),
        gain=tuned.gain,
    )  # fmt: skip


def check_choice(run: int, tuned: SettingsTuned, images: int, seconds: float) -> TuningChecked | None:
    """What a run's own speed says of the settings that were chosen for it; None where it trained too short to say."""
    if seconds < LEAST_CHECK_S:
        return None
    speed, before = images / seconds, tuned.images_per_s
    holds = before is None or 1 / _OUTSIDE <= speed / before <= _OUTSIDE
    return TuningChecked(run, tuned.key, speed, before, holds)


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


class Trial:
    """Makes a run's own steps on random pixels. `num_pairs` were measured of `total`; `out_of_time` says that some were
    not, for want of time.
    """

    def __init__(self, spec: RunSpec, images: TrialImages, control: Control) -> None:
        self.num_pairs, self.total, self.out_of_time = 0, 1, False
        self._spec, self._images, self._control = spec, images, control
        shape = images.shape
        self._began = perf_counter()
        self._budget_s, self._step_s = _LEAST_S, 0.0
        self._learners: dict[Form, Learner] = {}
        number = min(spec.batch_size, max(_TRIAL_PIXELS // (shape.height * shape.width), 2))
        draws = torch.Generator().manual_seed(0)
        size = (number, shape.channels, shape.height, shape.width)
        self._batch = (
            torch.randint(256, size, generator=draws, dtype=torch.uint8),
            torch.randint(shape.num_classes, (number,), generator=draws),
        )

    def begin(self, plain: Form) -> None:
        """Find out how long a step takes, and with that how long the run will, and the measuring may."""
        self._step_s = self.time_steps(plain, self.learner_for(plain), 1)
        self._budget_s = max(_LEAST_S, _SHARE * self._step_s * self._images.number / len(self._batch[1]))

    def quickest(self, plain: Form, others: list[Form]) -> Generator[Progress, None, tuple[Form, float]]:
        """The quickest of `plain` and `others`, and how many times as fast as `plain` it is."""
        best, best_gain = plain, 1.0
        for other in others:
            try:
                gain = yield from self._gain(plain, other)
            except LoadingStopped:
                raise
            except _TimeIsUpError:
                self.out_of_time = True
                break
            except Exception:  # no kernel for it, or no memory: it is not taken
                _log.info("%s cannot be tried", other, exc_info=True)
                continue
            finally:
                self._learners = {form: self._learners[form] for form in (plain, best) if form in self._learners}
            if gain >= CLEARLY and gain > best_gain:
                best, best_gain = other, gain
        return best, best_gain

    def _gain(self, plain: Form, other: Form) -> Generator[Progress, None, float]:
        """How many times as fast as `plain` the other is, by the median of the pairs; 1 where one of them disagrees."""
        gains: list[float] = []
        done = self.num_pairs
        left_s = self._budget_s - (perf_counter() - self._began)
        block_s = min(left_s / (4 * max(self.total - done, 1)), _LONGEST_BLOCK_S)
        num_steps = max(1, round(block_s / self._step_s)) if self._step_s > 0 else 1
        self._check_time(2 * num_steps)
        pair = (plain, self.learner_for(plain)), (other, self.learner_for(other))
        while len(gains) < _PAIRS and (not gains or gains[-1] > 1):
            yield Progress("measure", self.num_pairs, self.total, "comparisons")
            self._check_time(2 * num_steps)
            seconds = {}
            for form, learner in pair if len(gains) % 2 == 0 else reversed(pair):
                seconds[form] = self.time_steps(form, learner, num_steps)
            gains.append(seconds[plain] / seconds[other])
            self.num_pairs += 1
        self.num_pairs = done + _PAIRS  # those that need not be made any more count as made
        return median(gains) if min(gains) > 1 else 1.0

    def _check_time(self, num_steps: int) -> None:
        if perf_counter() - self._began + num_steps * self._step_s > self._budget_s:
            raise _TimeIsUpError

    def learner_for(self, form: Form) -> Learner:
        if form not in self._learners:
            images = self._images
            learner = build_learner(self._spec, images.shape, (images.mean, images.std), form.placement)
            self.time_steps(form, learner, 1)  # the first step chooses algorithms and lays weights out
            self._learners[form] = learner
        return self._learners[form]

    def time_steps(self, form: Form, learner: Learner, num_steps: int) -> float:
        """Of one step, the mean of so many."""
        torch.set_num_threads(form.num_threads)
        began = perf_counter()
        for _ in range(num_steps):
            if self._control.stop_requested:
                raise LoadingStopped
            learner.compute_gradients(self._batch, 1, 0)
            learner.optimizer.step()
        return (perf_counter() - began) / num_steps
