"""Whether a run fits, and how it can be made to: by letting finished runs go, in smaller parts, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from engine.device import Placement
from engine.errors import ForecastError
from engine.forecast.step_memory import forecast
from engine.forecast.timeline import Forecast
from engine.memory.calibration import Calibration
from engine.memory.headroom import room_bytes
from engine.memory.ledger import Ledger
from engine.shape import DataShape
from engine.spec import RunSpec
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


def plan_run(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, ledger: Ledger, calibration: Calibration
) -> Plan:
    """What `fit_run` would do, without doing it.

    Raises:
        ForecastError: no forecast could be made.
    """
    room = room_bytes(placement.device, ledger.num_bytes)
    return _plan(spec, shape, dataset_bytes, placement, calibration, room, ledger.idle_bytes, with_largest=True)


def fit_run(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, ledger: Ledger, calibration: Calibration
) -> Plan:
    """Let go of what is in the way, and say how the run is to be started. Its dataset is in the ledger, live."""

    def room() -> int:
        return room_bytes(placement.device, ledger.num_bytes) + dataset_bytes

    try:
        whole = forecast(spec, shape, dataset_bytes, placement, calibration)
        dropped = sum(item.num_bytes for item in ledger.make_room(lambda: whole.allocator_bytes <= room()))
        return _plan(spec, shape, dataset_bytes, placement, calibration, room(), 0, dropped)
    except ForecastError:
        dropped = sum(item.num_bytes for item in ledger.drop_idle())
        return Plan("unknown", None, room(), dropped)


def _plan(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, calibration: Calibration,
    room: int, idle: int, dropped: int = 0, with_largest: bool = False,
) -> Plan:  # fmt: skip
    whole = forecast(spec, shape, dataset_bytes, placement, calibration)

    def of_batch(size: int) -> Forecast:
        return forecast(spec.replace(batch_size=size), shape, dataset_bytes, placement, calibration)

    largest = largest_batch(of_batch, spec.batch_size, room + idle) if with_largest else 0
    if whole.allocator_bytes <= room:
        return Plan("after freeing" if dropped else "fits", whole, room, dropped, largest_batch=largest)
    if whole.allocator_bytes <= room + idle:
        return Plan("after freeing", whole, room, whole.allocator_bytes - room, largest_batch=largest)
    room += idle
    recompute = spec.on_oom == "checkpoint"
    if recompute:
        whole = forecast(spec, shape, dataset_bytes, placement, calibration, recompute=True)
        if whole.allocator_bytes <= room:
            return Plan("recomputing", whole, room, dropped, recompute=True, largest_batch=largest)
    micro_batch = spec.batch_size
    while spec.on_oom != "fail" and micro_batch > LEAST_PART:
        micro_batch = max(-(-micro_batch // 2), LEAST_PART)
        whole = forecast(spec, shape, dataset_bytes, placement, calibration, micro_batch, recompute)
        if whole.allocator_bytes <= room:
            return Plan("micro-batches", whole, room, dropped, micro_batch, recompute, largest_batch=largest)
    return Plan("not", whole, room, dropped, micro_batch, recompute, largest_batch=largest)


def largest_batch(of_batch: Callable[[int], Forecast], batch_size: int, room: int) -> int:
    """The largest batch size that fits into `room` bytes; 0 where not even two images do.

    The peak grows with the batch as the highest of several straight lines, so Newton's method comes down to it from
    above and needs one or two forecasts more.
    """
    found = of_batch(batch_size)
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
