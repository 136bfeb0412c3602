"""Whether a dataset's decoded images fit on disk, and how long decoding them takes, as said before it begins.

Loads neither torch nor numpy: Set up shows it.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from engine.environment import CACHE_GIB, DEFAULT_CACHE_GIB, number_of
from engine.text import about_duration, counted, memory_size

LONG_S, LARGE_BYTES = 60.0, 5 * 10**9
"""From here on the app asks before it decodes: a minute, or 5 GB on disk."""
_WORTH_SAYING_S = 2.0
_SPARE = 1.1  # times the images: checkpoints and other programs need room on the disk, too


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """`num_files` images of `num_bytes` decoded; `pass_s` is the time to decode all of them once, from a sample.

    `reason` says why they are not kept decoded; None: they are. `is_counted`: the first pass over such files, which
    finds the unusable ones, was made before.
    """

    num_files: int
    num_bytes: int
    pass_s: float
    reason: str | None = None
    is_counted: bool = False

    @property
    def is_streamed(self) -> bool:
        """Whether images are decoded as they are used."""
        return self.reason is not None

    @property
    def first_s(self) -> float:
        """Seconds before the first step."""
        return 0.0 if self.is_counted else self.pass_s

    @property
    def should_ask(self) -> bool:
        """Whether it takes so long, or so much of the disk, that a person should agree to it first."""
        return self.first_s > LONG_S or (self.is_streamed and self.pass_s > LONG_S) or self._written > LARGE_BYTES

    @property
    def is_worth_saying(self) -> bool:
        return self.is_streamed or self.first_s > _WORTH_SAYING_S or self._written > LARGE_BYTES

    @property
    def _written(self) -> int:
        return 0 if self.is_streamed else self.num_bytes

    @property
    def note(self) -> str:
        """How a run that decodes images as it uses them says so."""
        return f"{memory_size(self.num_bytes)} decoded, {self.reason}: images are decoded as they are used"

    @property
    def words(self) -> str:
        """Size and time, in one sentence."""
        images, size, time = counted(self.num_files, "image"), memory_size(self.num_bytes), about_duration(self.pass_s)
        if self.reason is None:
            return f"decoding {images} takes about {time}, once, and {size} on disk"
        first = "" if self.is_counted else f", and {time} once before the first"
        return (
            f"{images} take {size} decoded, {self.reason}: they are decoded as they are used, about {time} an epoch "
            f"if nothing else limits it{first}"
        )


def bound_bytes() -> int:
    """The most that decoded images may take on disk (RESLAB_CACHE_GIB).

    Raises:
        SpecError: the variable is not a number.
    """
    bound = number_of(CACHE_GIB)
    return int((DEFAULT_CACHE_GIB if bound is None else bound) * 2**30)


def exceeds_bound(num_bytes: int) -> str | None:
    """Why decoded images of this size are not kept, however much of the disk is free; None if they may be."""
    bound = bound_bytes()
    if num_bytes <= bound:
        return None
    return f"more than the cache's {memory_size(bound)} ({CACHE_GIB.name})" if bound else f"{CACHE_GIB.name} is 0"


def exceeds_disk(num_bytes: int, folder: Path) -> str | None:
    """Why they do not fit on the disk of `folder`, which may not exist yet; None if they do."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), None)
    try:
        free = shutil.disk_usage(there or folder).free
    except OSError:  # writing will report it
        return None
    return None if _SPARE * num_bytes <= free else f"too much for the {memory_size(free)} free in {folder}"
