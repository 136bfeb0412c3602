"""Whether a run fits, and how to make it fit: by unloading finished runs, or in smaller parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from engine.errors import ForecastError
from engine.forecast.step_memory import Step, forecast
from engine.forecast.timeline import Forecast
from engine.memory.headroom import headroom_bytes
from engine.memory.ledger import Ledger
from engine.step.learner import MIN_MICRO_BATCH
from engine.text import memory_size

Fit = Literal["fits", "after freeing", "micro-batches", "recomputing", "not", "unknown"]
_NEWTON_STEPS = 6
_MOST = 65_536  # images a batch, as RunSpec has it


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run will be started. `room_bytes` is what it may use in total, its resident dataset included.

    `forecast` is None if none could be made; the run trains anyway.
    """

    fit: Fit
    forecast: Forecast | None
    room_bytes: int
    dropped_bytes: int
    micro_batch: int | None = None
    recompute: bool = False
    largest_batch: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether batches stay whole and activations are kept."""
        return self.fit in ("fits", "after freeing")

    @property
    def words(self) -> str:
        """The verdict in words."""
        match self.fit:
            case "fits":
                return "fits"
            case "after freeing":
                return f"fits after freeing {memory_size(self.dropped_bytes)}"
            case "micro-batches":
                return f"fits with micro-batches of {self.micro_batch}"
            case "recomputing":
                return "fits with activations computed twice"
            case "not":
                return "will not fit"
            case "unknown":
                return "no forecast"


def plan_run(step: Step, ledger: Ledger) -> Plan:
    """What `fit_run` would do, without doing it.

    Raises:
        ForecastError: no forecast could be made.
    """
    free = headroom_bytes(step.placement.device, ledger.num_bytes, ledger.bound_bytes)
    idle = ledger.idle_bytes
    whole = forecast(step)
    plan = _plan(step, whole, _Headroom(free, idle))
    return replace(plan, largest_batch=largest_batch(lambda size: forecast(step.of_batch(size)), whole, free + idle))


def fit_run(step: Step, ledger: Ledger) -> Plan:
    """Unload idle values as needed and plan how to start the run. Its dataset is in the ledger, live."""

    def free() -> int:
        return headroom_bytes(step.placement.device, ledger.num_bytes, ledger.bound_bytes) + step.dataset_bytes

    try:
        whole = forecast(step)
        dropped = sum(item.num_bytes for item in ledger.evict_until(lambda: whole.allocator_bytes <= free()))
        return _plan(step, whole, _Headroom(free(), dropped=dropped))
    except ForecastError:
        dropped = sum(item.num_bytes for item in ledger.drop_idle())
        return Plan("unknown", None, free(), dropped)


@dataclass(frozen=True, slots=True)
class _Headroom:
    """Bytes for a run: free, held by idle values that could be dropped, and dropped for it already."""

    free: int
    idle: int = 0
    dropped: int = 0


def _plan(step: Step, whole: Forecast, headroom: _Headroom) -> Plan:
    """`whole` is the forecast of the step in one part."""
    if whole.allocator_bytes <= headroom.free:
        return Plan("after freeing" if headroom.dropped else "fits", whole, headroom.free, headroom.dropped)
    if whole.allocator_bytes <= headroom.free + headroom.idle:
        return Plan("after freeing", whole, headroom.free, whole.allocator_bytes - headroom.free)
    spec, free = step.spec, headroom.free + headroom.idle
    recompute = spec.on_oom == "checkpoint"
    found = whole
    if recompute:
        found = forecast(step, recompute=True)
        if found.allocator_bytes <= free:
            return Plan("recomputing", found, free, headroom.dropped, recompute=True)
    micro_batch = spec.batch_size
    while spec.on_oom != "fail" and micro_batch > MIN_MICRO_BATCH:
        micro_batch = max(-(-micro_batch // 2), MIN_MICRO_BATCH)
        found = forecast(step, micro_batch, recompute)
        if found.allocator_bytes <= free:
            return Plan("micro-batches", found, free, headroom.dropped, micro_batch, recompute)
    return Plan("not", found, free, headroom.dropped, micro_batch, recompute)


def largest_batch(of_batch: Callable[[int], Forecast], found: Forecast, headroom: int) -> int:
    """The largest batch size that fits into `headroom` bytes, starting from one forecast; 0 if not even two images fit.

    The peak grows with the batch size as the maximum of several straight lines, so Newton's method converges from above
    with one or two more forecasts.
    """
    for _ in range(_NEWTON_STEPS):
        if found.image_bytes <= 0:  # the peak is in the update, whatever the batch size
            if found.allocator_bytes > headroom or found.batch_size >= _MOST:
                break
            guess = min(4 * found.batch_size, _MOST)
        else:
            fixed = found.allocator_bytes - found.image_bytes * found.batch_size
            guess = min(max((headroom - fixed) // found.image_bytes, 0), _MOST)
        if guess < MIN_MICRO_BATCH:
            return 0
        if guess == found.batch_size:
            break
        found = of_batch(guess)
    fits = found.allocator_bytes <= headroom
    return found.batch_size if fits else max(found.batch_size * headroom // found.allocator_bytes - 1, 0)
