"""What became of given weights: what was kept, renamed, made new and left out, as one line for the user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from engine.models.head import Head
from engine.models.matching import Matched
from engine.text import counted, safe_text

_MOST_NAMED = 2
_NAME = 40  # characters of a name that are shown


@dataclass(frozen=True, slots=True)
class Loaded:
    """`source` says whose weights, `key` under which key of the file, `beside` which other keys hold some. `first` and
    `last` are the names of the network's first and last layer; the first went from `channels` to others, if they
    differ. `is_foreign`: the weights do not say which function they belong to. `more`: further sentences.
    """

    source: str
    matched: Matched
    head: Head
    first: str
    last: str
    channels: tuple[int, int]
    key: str = ""
    beside: tuple[str, ...] = ()
    is_foreign: bool = False
    more: tuple[str, ...] = field(default=())

    @property
    def line(self) -> str:
        """One line, safe to print."""
        origin = ", ".join(self._origin())
        return f"{self.source}{f' ({origin})' if origin else ''}: {'; '.join(self._parts())}"

    @property
    def notes(self) -> tuple[str, ...]:
        return (self.line, *self.more)

    def _origin(self) -> Iterator[str]:
        if self.key:
            beside = f", not {' or '.join(safe_text(key, _NAME) for key in self.beside)}" if self.beside else ""
            yield f"from {safe_text(self.key, _NAME)}{beside}"
        if self.matched.prefix:
            yield f"without {safe_text(self.matched.prefix, _NAME)}"

    def _parts(self) -> Iterator[str]:
        found = self.matched
        kept = counted(len(found.names) - (0 if self.head.is_kept else found.num_of(self.last)), "tensor")
        yield f"{kept} matched by order and shape, their names differ" if found.by_order else f"{kept} kept"
        theirs = f" ({safe_text(found.last, _NAME)} in the file)" if found.last else ""
        yield f"{self.last}{theirs} {'kept' if self.head.is_kept else 'new'}: {self.head.reason}"
        before, now = self.channels
        if before != now:
            how = "summed" if now == 1 else "summed, repeated and scaled" if before > 1 else "repeated and scaled"
            yield f"{self.first} {before}→{now} channels, filters {how}"
        if found.missing:
            yield f"new: {_some(found.missing)}"
        if found.left_out:
            yield f"left out: {_some(found.left_out)}"
        if found.outside:
            yield f"{counted(found.outside, 'tensor')} beside the network left out"


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(safe_text(name, _NAME) for name in names[:_MOST_NAMED]) + (
        f" and {rest:,} more" if rest > 0 else ""
    )
