"""Where a run stands between two steps: with weights and optimizer state, all that going on exactly needs.

The order of an epoch comes from (seed, epoch) and every random draw of a step from (seed, epoch, step), so there is no
generator whose state would have to be kept.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from engine.errors import CheckpointError


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
        """Back from JSON, which keeps every float to the last bit.

        Raises:
            CheckpointError: it is not what `to_dict` gave.
        """
        try:
            rest = {item.name: values[item.name] for item in fields(cls) if item.name not in ("epoch", "memory")}
            return cls(**rest, epoch=EpochSums(**values["epoch"]), memory=MemoryState(**values["memory"]))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"the checkpoint does not say where its run stood ({error})") from None


START = Position()
