"""Whether the last layer of trained weights is kept: it is of use only for the classes that it was trained for."""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ModelError
from engine.text import counted, safe_text

_NAME = 20  # characters of a class name that are shown


@dataclass(frozen=True, slots=True)
class Classes:
    """How many classes, and their names in order; empty if unknown."""

    number: int
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Head:
    """Whether the last layer of given weights `is_kept`, and why, as a clause."""

    is_kept: bool
    reason: str


def decide_head(stated: str, theirs: Classes | None, ours: Classes) -> Head:
    """The setting `head` (`auto`, `keep` or `new`) for weights of `theirs` (None: without a last layer).

    Raises:
        ModelError: a last layer that cannot be kept was to be.
    """
    if theirs is None or theirs.number != ours.number:
        reason = (
            "the weights have none"
            if theirs is None
            else f"{theirs.number:,}→{counted(ours.number, 'class', 'classes')}"
        )
        if stated == "keep":
            raise ModelError(f"head keep: the last layer cannot be kept ({reason}); set head to auto or new")
        return Head(False, reason)
    number = counted(ours.number, "class", "classes")
    if stated == "new":
        return Head(False, f"{number}, as set")
    if not theirs.names or not ours.names:
        return Head(True, f"{number}, names unknown")
    if theirs.names == ours.names:
        return Head(True, f"the same {number}")
    return Head(stated == "keep", _difference(theirs.names, ours.names) + (", as set" if stated == "keep" else ""))


def _difference(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    """The first class that differs."""
    what = "the same classes in another order" if sorted(theirs) == sorted(ours) else "other classes"
    number, pair = next(
        (number, pair) for number, pair in enumerate(zip(theirs, ours, strict=True), start=1) if pair[0] != pair[1]
    )
    was, now = (safe_text(name, _NAME) for name in pair)
    return f"{what}: number {number} was {was} and is {now}"
