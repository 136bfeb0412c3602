"""A run's position between two steps: with weights and optimizer state, all that an exact resume needs.

The order of an epoch comes from (seed, epoch) and the random numbers of a step from (seed, epoch, step), so there is no
generator state to store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from engine.errors import CheckpointError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EpochSums:
    """Sums over the steps of an unfinished epoch: images, losses, right images, and when it began."""

    images: int = 0
    loss: float = 0.0
    right: int = 0
    began_s: float = 0.0


@dataclass(frozen=True, slots=True)
class MemoryState:
    """How batches are split, and what `Recovery` remembers of its failures."""

    micro_batch: int | None = None
    recomputing: bool = False
    before_probe: int | None = None
    most: int | None = None
    evaluated_at_once: int | None = None
    calm_steps: int = 0
    calm_needed: int | None = None


@dataclass(frozen=True, slots=True)
class Position:
    """`step` steps and `epochs_done` whole epochs are done; `evaluated`: so is the evaluation after them.

    `images` and `train_s` count over the whole run, `elapsed_s` all of its time, up to this moment.
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
        """Parse JSON, which keeps every float to the last bit. Fields that an earlier version did not write get their
        defaults.

        Raises:
            CheckpointError: it does not say how many steps were done, or is not from `to_dict`.
        """
        try:
            parts = {"epoch": _known(EpochSums, values["epoch"]), "memory": _known(MemoryState, values["memory"])}
            return _known(cls, {"step": values["step"], **values, **parts})
        except (AttributeError, KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not say at which step it was written ({error})") from None


def _known(kind: type[T], values: Mapping[str, Any]) -> T:
    """Only the values that `kind` has fields for: a header holds more than these."""
    return kind(**{item.name: values[item.name] for item in fields(kind) if item.name in values})  # type: ignore[arg-type]


START = Position()
