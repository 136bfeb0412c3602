"""Where a run stands between two steps: with weights and optimizer state, all that going on exactly needs.

The order of an epoch comes from (seed, epoch) and every random draw of a step from (seed, epoch, step), so there is no
generator whose state would have to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from engine.errors import CheckpointError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EpochSums:
    """What the steps of an unfinished epoch have come to: images, sum of their losses, right ones, and since when."""

    images: int = 0
    loss: float = 0.0
    right: int = 0
    began_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryState:
    """How far batches are cut, and what `Recovery` remembers of its failures."""

    micro_batch: int | None = None
    recomputing: bool = False
    before_probe: int | None = None
    most: int | None = None
    evaluated_at_once: int | None = None
    calm_steps: int = 0
    calm_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """`step` steps are done, `epochs_done` whole epochs; `evaluated` says whether the evaluation after those is, too.

    `images` and `train_s` count over the whole run, `elapsed_s` counts everything, up to this moment.
    """

    step: int = 0
    epochs_done: int = 0
    evaluated: bool = False
    images: int = 0
    train_s: float = 0.0
    elapsed_s: float = 0.0
    epoch: EpochSums = field(default_factory=EpochSums)
    memory: MemoryState = field(default_factory=MemoryState)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Position:
        """Back from JSON, which keeps every float to the last bit. Fields that an earlier version
        did not write have their defaults.

        Raises:
            CheckpointError: it does not say how many steps were done, or is not what `to_dict` gave.
        """
        try:
            parts = {"epoch": _known(EpochSums, values["epoch"]), "memory": _known(MemoryState, values["memory"])}
            return _known(cls, {"step": values["step"], **values, **parts})
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not say where its run stood ({error})") from None


def _known(kind: type[T], values: Mapping[str, Any]) -> T:
    """Of the values those that it has a field for: a header says more than this."""
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})  # type: ignore[arg-type]


START = Position()
