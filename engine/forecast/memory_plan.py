"""Whether a run fits, and how it can be made to: by letting finished runs go, in smaller parts, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from engine.errors import ForecastError
from engine.forecast.step_memory import Step, forecast
from engine.forecast.timeline import Forecast
from engine.memory.headroom import headroom_bytes
from engine.memory.ledger import Ledger
from engine.step.learner import LEAST_PART
from engine.text import memory_size

Fit = Literal["fits", "after freeing", "micro-batches", "recomputing", "not", "unknown"]
_NEWTON_STEPS = 6
_MOST = 65_536  # images a batch, as RunSpec has it


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run will be started. `room_bytes` is what it may take in all, its resident dataset included.

    `forecast` is None where none could be made: that is no reason not to train.
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
        """The verdict, for a person."""
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
    room, idle = headroom_bytes(step.placement.device, ledger.num_bytes), ledger.idle_bytes
    whole = forecast(step)
    plan = _plan(step, whole, _Headroom(room, idle))
    return replace(plan, largest_batch=largest_batch(lambda size: forecast(step.of_batch(size)), whole, room + idle))


def fit_run(step: Step, ledger: Ledger) -> Plan:
    """Unload what is in the way, and say how the run is to be started. Its dataset is in the ledger, live."""

    def room() -> int:
        return headroom_bytes(step.placement.device, ledger.num_bytes) + step.dataset_bytes

    try:
        whole = forecast(step)
        dropped = sum(item.num_bytes for item in ledger.make_room(lambda: whole.allocator_bytes <= room()))
        return _plan(step, whole, _Headroom(room(), dropped=dropped))
    except ForecastError:
        dropped = sum(item.num_bytes for item in ledger.drop_idle())
        return Plan("unknown", None, room(), dropped)


@dataclass(frozen=True, slots=True)
class _Headroom:
    """Bytes for a run: free, held by what is idle and could go, and of what has gone for it already."""

    free: int
    idle: int = 0
    dropped: int = 0


def _plan(step: Step, whole: Forecast, room: _Headroom) -> Plan:
    """`whole` is the forecast of the step in one part."""
    if whole.allocator_bytes <= room.free:
        return Plan("after freeing" if room.dropped else "fits", whole, room.free, room.dropped)
    if whole.allocator_bytes <= room.free + room.idle:
        return Plan("after freeing", whole, room.free, whole.allocator_bytes - room.free)
    spec, free = step.spec, room.free + room.idle
    recompute = spec.on_oom == "checkpoint"
    found = whole
    if recompute:
        found = forecast(step, recompute=True)
        if found.allocator_bytes <= free:
            return Plan("recomputing", found, free, room.dropped, recompute=True)
    micro_batch = spec.batch_size
    while spec.on_oom != "fail" and micro_batch > LEAST_PART:
        micro_batch = max(-(-micro_batch // 2), LEAST_PART)
        found = forecast(step, micro_batch, recompute)
        if found.allocator_bytes <= free:
            return Plan("micro-batches", found, free, room.dropped, micro_batch, recompute)
    return Plan("not", found, free, room.dropped, micro_batch, recompute)


def largest_batch(of_batch: Callable[[int], Forecast], found: Forecast, room: int) -> int:
    """The largest batch size that fits into `room` bytes, from one forecast and more of them; 0 where not even two
    images do.

    The peak grows with the batch as the highest of several straight lines, so Newton's method comes down to it from
    above and needs one or two forecasts more.
    """
    for _ in range(_NEWTON_STEPS):
        if found.image_bytes <= 0:  # the peak is in the update, whatever the batch
            if found.allocator_bytes > room or found.batch_size >= _MOST:
                break
            guess = min(4 * found.batch_size, _MOST)
        else:
            fixed = found.allocator_bytes - found.image_bytes * found.batch_size
            guess = min(max((room - fixed) // found.image_bytes, 0), _MOST)
        if guess < LEAST_PART:
            return 0
        if guess == found.batch_size:
            break
        found = of_batch(guess)
    fits = found.allocator_bytes <= room
    return found.batch_size if fits else max(found.batch_size * room // found.allocator_bytes - 1, 0)
