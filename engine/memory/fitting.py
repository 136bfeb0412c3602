"""Whether a run fits, and how it can be made to: by letting finished runs go, in smaller parts, or not at all."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from engine.device import Placement
from engine.errors import ReslabError
from engine.memory.calibration import Calibration
from engine.memory.forecast import Forecast, forecast
from engine.memory.ledger import Ledger
from engine.memory.room import room_bytes
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.text import memory_size
from engine.training.learner import LEAST_PART

Fit = Literal["fits", "after freeing", "micro-batches", "recomputing", "not", "unknown"]
_log = logging.getLogger("reslab")


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
    """What `fit_run` would do, without doing it. `dataset_bytes` counts as held already where the ledger holds it."""
    room = room_bytes(placement.device, ledger.num_bytes)
    return _plan(spec, shape, dataset_bytes, placement, calibration, room, ledger.idle_bytes)


def fit_run(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, ledger: Ledger, calibration: Calibration
) -> Plan:
    """Let go of what is in the way, and say how the run is to be started. Its dataset is in the ledger, live."""

    def room() -> int:
        return room_bytes(placement.device, ledger.num_bytes) + dataset_bytes

    try:
        whole = forecast(spec, shape, dataset_bytes, placement, calibration)
    except ReslabError:
        raise
    except Exception:  # the forecast stands on what torch does not promise
        _log.warning("no memory forecast for %s", spec.model, exc_info=True)
        dropped = ledger.drop_idle()
        return Plan("unknown", None, room(), sum(item.num_bytes for item in dropped))
    dropped = ledger.make_room(lambda: whole.allocator_bytes <= room())
    return _plan(spec, shape, dataset_bytes, placement, calibration, room(), 0, sum(item.num_bytes for item in dropped))


def _plan(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, calibration: Calibration,
    room: int, idle: int, dropped: int = 0,
) -> Plan:  # fmt: skip
    whole = forecast(spec, shape, dataset_bytes, placement, calibration)
    largest = largest_batch(whole, room + idle)
    if whole.allocator_bytes <= room:
        return Plan("after freeing" if dropped else "fits", whole, room, dropped, largest_batch=largest)
    if whole.allocator_bytes <= room + idle:
        return Plan("after freeing", whole, room, whole.allocator_bytes - room, largest_batch=largest)
    room += idle
    if spec.on_oom == "checkpoint":
        twice = forecast(spec, shape, dataset_bytes, placement, calibration, recompute=True)
        if twice.allocator_bytes <= room:
            return Plan("recomputing", twice, room, dropped, recompute=True, largest_batch=largest)
    elif spec.on_oom == "micro-batch":
        micro_batch = spec.batch_size
        while micro_batch > LEAST_PART:
            micro_batch = max(-(-micro_batch // 2), LEAST_PART)
            part = forecast(spec, shape, dataset_bytes, placement, calibration, micro_batch)
            if part.allocator_bytes <= room:
                return Plan("micro-batches", part, room, dropped, micro_batch, largest_batch=largest)
    return Plan("not", whole, room, dropped, largest_batch=largest)


def largest_batch(found: Forecast, room: int) -> int:
    """The largest batch size that fits into `room` bytes, at least 0, as far as activations grow with the batch."""
    fixed = found.allocator_bytes - found.image_bytes * found.batch_size
    if found.image_bytes <= 0:
        return found.batch_size if found.allocator_bytes <= room else 0
    return max((room - fixed) // found.image_bytes, 0)
