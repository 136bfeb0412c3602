"""Choose arithmetic, layout and threads for `--dtype auto` on a processor by measurement, and keep the choice.

bfloat16 and channels-last help one network and hurt the next (ResNet-18: 1.8 times the speed of plain float32 at 64×64,
0.6 times at 8×8, on one processor with bfloat16), so everything is measured. Each candidate runs a few of the run's own
steps, alternating with the plain form. It wins only if every pair agrees that it is clearly faster; a busy moment
cannot decide. All of it takes at most 5 % of the expected run time, or 3 s if that is more. The choice is recorded for
this network, shape and machine together with the load from other processes, so that later runs compute the same way. It
is measured again once the machine is quieter, or after a run that is much faster or slower than the first. GPUs are not
measured.
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

from engine.catalog.models import choose_stem, find_model, misfit
from engine.control import Control, RunControl
from engine.cores import OthersMeter
from engine.data.survey import Survey
from engine.device import Placement, choose_placement, cpu_name, share_cores
from engine.environment import TUNE, is_on
from engine.errors import SpecError
from engine.events import SettingsTuned, TuningChecked
from engine.models.whole import fingerprint
from engine.progress import LoadingStopped, Progress
from engine.shape import DataShape
from engine.spec import RunSpec, affecting, settings_of
from engine.step.learner import Learner, build_learner

QUIET_CORES = 0.25  # busy with other processes: up to this the machine counts as quiet
MIN_SPEEDUP = 1.1  # over the plain candidate, median of the pairs
_PAIRS = 5  # all must agree: a candidate that is no faster passes once in 32 times, and then fails the median
LEAST_S, _SHARE = 3.0, 0.05  # of the run's time, for all measurements
_LONGEST_BLOCK_S = 0.2
_TRIAL_PIXELS = 128 * 64 * 64  # of a trial's batch: 10 images of 224×224, the whole batch of 128 up to 64×64
LEAST_CHECK_S = 3.0  # of training: a shorter run's speed means nothing
_OUTSIDE = 1.5  # times faster or slower than the first run
_STATED = ("model", "stem", "norm", "optimizer", "batch_size", "device", "dtype")  # in every key, or measured
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to compute: a placement and a number of threads."""

    placement: Placement
    num_threads: int


class _TimeIsUpError(Exception):
    """The next block would exceed the time budget."""


def is_tunable(spec: RunSpec, placement: Placement) -> bool:
    """Whether there is a choice to make: training with `auto` on a processor, not deterministic nor switched off."""
    wanted = spec.dtype == "auto" and spec.epochs > 0 and not spec.deterministic and is_on(TUNE)
    return wanted and placement.device.type == "cpu"


def autotune_key(spec: RunSpec, shape: DataShape) -> str:
    """What a choice is valid for: processor, available threads, torch version, network, images and batch. Other
    settings that affect a step count only if they differ from their defaults, so that a new setting keeps older choices
    valid.
    """
    stem = choose_stem(find_model(spec.model), spec.stem, shape)
    images = (shape.channels, shape.height, shape.width, shape.num_classes, spec.batch_size)
    machine = (cpu_name(), torch.get_num_threads(), torch.__version__)
    known = settings_of(RunSpec)
    others = {name: getattr(spec, name) for name in affecting("step") if name not in _STATED}
    changed = {name: value for name, value in others.items() if value != known[name].default}
    if network := fingerprint(spec.model):
        changed["network"] = network
    stated = [*machine, spec.model, stem, spec.norm, spec.optimizer, *images]
    return json.dumps([*stated, changed] if changed else stated)


def known_choice(
    autotune_choices: Mapping[str, SettingsTuned], spec: RunSpec, shape: DataShape, busy_cores: float | None
) -> SettingsTuned | None:
    """What earlier runs measured; None if it is to be measured again. Other processes use `busy_cores` now."""
    tuned = autotune_choices.get(autotune_key(spec, shape))
    if tuned is None or tuned.due:
        return None
    was_busy = tuned.busy_cores is not None and tuned.busy_cores > QUIET_CORES
    return None if was_busy and busy_cores is not None and busy_cores <= QUIET_CORES else tuned


@dataclass(frozen=True, slots=True)
class TrialImages:
    """Shape of the images, mean and std per channel for pixels from 0 to 1, and the number of images that the run
    trains on over all epochs, which sets the time budget.
    """

    shape: DataShape
    mean: tuple[float, ...]
    std: tuple[float, ...]
    number: int


def tune(
    run: int, spec: RunSpec, images: TrialImages, placement: Placement, control: Control
) -> Generator[Progress, None, SettingsTuned | None]:
    """Measure the candidates for `spec` on this processor and return the fastest; None if there is no time.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    trial = Trial(spec.replace(weights="random", freeze="none", backbone_rate=1.0, head="auto"), images, control)
    all_threads, others = torch.get_num_threads(), OthersMeter()
    best, gain = Candidate(placement, all_threads), 1.0
    with keep_threads():
        trial.begin(best)
        counts = sorted({all_threads // 2, all_threads // 4} - {0}, reverse=True)
        fewer = [Candidate(placement, count) for count in counts]
        placements = _other_placements(placement)
        trial.total = _PAIRS * (len(fewer) + len(placements))
        found, times = yield from trial.fastest(best, fewer)
        best, gain = found, times
        found, times = yield from trial.fastest(best, [replace(best, placement=other) for other in placements])
        best, gain = found, gain * times
    if trial.num_pairs == 0:
        return None
    chosen = best.placement
    return SettingsTuned(
        run, autotune_key(spec, images.shape), _name(chosen.dtype), _name(chosen.memory_format), best.num_threads, gain,
        busy_cores=others.read(), due=trial.out_of_time, measured_at=time.time(),
    )  # fmt: skip


def measure_choice(spec: RunSpec, found: Survey) -> Generator[Progress, None, SettingsTuned | None]:
    """Measure now, as the run would before its first step, on images such as those `found`.

    Raises:
        SpecError: there is nothing to choose, or the network cannot take such images.
    """
    placement, others = choose_placement(spec), OthersMeter()
    if not is_tunable(spec, placement):
        raise SpecError(
            "there is nothing to measure: set dtype auto on a CPU, deterministic off, epochs above 0, and RESLAB_TUNE "
            "not to 0"
        )
    if problem := misfit(find_model(spec.model), found.shape):
        raise SpecError(problem)
    middle = (0.5,) * found.shape.channels
    images = TrialImages(found.shape, middle, middle, spec.epochs * found.num_train)
    return (yield from tune(0, spec, images, share_cores(placement, others), RunControl()))


def apply_choice(tuned: SettingsTuned, placement: Placement) -> Placement:
    """Set this thread's number of threads and return the chosen placement."""
    torch.set_num_threads(tuned.num_threads)
    return replace(
        placement, dtype=getattr(torch, tuned.dtype), memory_format=getattr(torch, tuned.memory_format),
        gain=tuned.gain,
    )  # fmt: skip


def check_choice(run: int, tuned: SettingsTuned, images: int, seconds: float) -> TuningChecked | None:
    """Compare a run's speed with that of the first run with these settings; None if it trained too briefly."""
    if seconds < LEAST_CHECK_S:
        return None
    speed, before = images / seconds, tuned.images_per_s
    holds = before is None or 1 / _OUTSIDE <= speed / before <= _OUTSIDE
    return TuningChecked(run, tuned.key, speed, before, holds)


@contextmanager
def keep_threads() -> Iterator[None]:
    """Restore this thread's number of threads afterwards."""
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
    """Runs a run's own steps on random pixels. `num_pairs` of `total` are measured; `out_of_time`: some were skipped
    for lack of time.
    """

    def __init__(self, spec: RunSpec, images: TrialImages, control: Control) -> None:
        self.num_pairs, self.total, self.out_of_time = 0, 1, False
        self._spec, self._images, self._control = spec, images, control
        shape = images.shape
        self._began = perf_counter()
        self._budget_s, self._step_s = LEAST_S, 0.0
        self._learners: dict[Candidate, Learner] = {}
        number = min(spec.batch_size, max(_TRIAL_PIXELS // (shape.height * shape.width), 2))
        rng = torch.Generator().manual_seed(0)
        size = (number, shape.channels, shape.height, shape.width)
        self._batch = (
            torch.randint(256, size, generator=rng, dtype=torch.uint8),
            torch.randint(shape.num_classes, (number,), generator=rng),
        )

    def begin(self, plain: Candidate) -> None:
        """Time one step, and derive the time budget from it."""
        self._step_s = self.time_steps(plain, self.learner_for(plain), 1)
        self._budget_s = max(LEAST_S, _SHARE * self._step_s * self._images.number / len(self._batch[1]))

    def fastest(self, plain: Candidate, others: list[Candidate]) -> Generator[Progress, None, tuple[Candidate, float]]:
        """The fastest of `plain` and `others`, and its speed relative to `plain`."""
        best, best_gain = plain, 1.0
        for other in others:
            try:
                gain = yield from self._gain(plain, other)
            except LoadingStopped:
                raise
            except _TimeIsUpError:
                self.out_of_time = True
                break
            except Exception:  # no kernel or no memory: skip it
                _log.info("%s cannot be tried", other, exc_info=True)
                continue
            finally:
                self._learners = {key: self._learners[key] for key in (plain, best) if key in self._learners}
            if gain >= MIN_SPEEDUP and gain > best_gain:
                best, best_gain = other, gain
        return best, best_gain

    def _gain(self, plain: Candidate, other: Candidate) -> Generator[Progress, None, float]:
        """Speed relative to `plain`, the median of the pairs; 1 if any pair disagrees."""
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
            for candidate, learner in pair if len(gains) % 2 == 0 else reversed(pair):
                seconds[candidate] = self.time_steps(candidate, learner, num_steps)
            gains.append(seconds[plain] / seconds[other])
            self.num_pairs += 1
        self.num_pairs = done + _PAIRS  # skipped pairs count as measured
        return median(gains) if min(gains) > 1 else 1.0

    def _check_time(self, num_steps: int) -> None:
        if perf_counter() - self._began + num_steps * self._step_s > self._budget_s:
            raise _TimeIsUpError

    def learner_for(self, candidate: Candidate) -> Learner:
        if candidate not in self._learners:
            images = self._images
            learner = build_learner(self._spec, images.shape, (images.mean, images.std), candidate.placement)
            self.time_steps(candidate, learner, 1)  # the first step selects algorithms and lays out weights
            self._learners[candidate] = learner
        return self._learners[candidate]

    def time_steps(self, candidate: Candidate, learner: Learner, num_steps: int) -> float:
        """Seconds per step, the mean of `num_steps`."""
        torch.set_num_threads(candidate.num_threads)
        began = perf_counter()
        for _ in range(num_steps):
            if self._control.stop_requested:
                raise LoadingStopped
            learner.compute_gradients(self._batch, 1, 0)
            learner.optimizer.step()
        return (perf_counter() - began) / num_steps
