"""reslab's environment variables: their meaning and their checked values. Loads no torch.

The command line checks all of them first, so that a typo shows before images are decoded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.errors import SpecError

DEFAULT_CACHE_GIB = 20.0
MOST_PIXELS = 2**30
"""That a file may declare in its header: larger ones are never read, not even a JPEG at an eighth of its size."""


@dataclass(frozen=True, slots=True)
class Variable:
    """`problem` returns what the text should be, or None if it is valid."""

    name: str
    meaning: str
    default: str
    problem: Callable[[str], str | None]


def _no_problem(text: str) -> None:
    """Any text is a valid folder name."""


def _not_gib(text: str) -> str | None:
    try:
        return None if 0 < float(text) < 2**33 else "GiB above 0, such as 6.5"
    except ValueError:
        return "GiB above 0, such as 6.5"


def _not_gib_or_0(text: str) -> str | None:
    try:
        return None if 0 <= float(text) < 2**33 else "GiB of at least 0, such as 6.5"
    except ValueError:
        return "GiB of at least 0, such as 6.5"


def _not_pixels(text: str) -> str | None:
    expected = f"a whole number from 1 to {MOST_PIXELS:,}"
    return None if text.isascii() and text.isdigit() and 1 <= int(text) <= MOST_PIXELS else expected


def _not_switch(text: str) -> str | None:
    return None if text in ("0", "1") else "0 or 1"


HOME = Variable("RESLAB_HOME", "folder of runs and weights", "see --home", _no_problem)
DATA = Variable("RESLAB_DATA", "folder of datasets", "see --data-dir", _no_problem)
CACHE = Variable("RESLAB_CACHE", "folder of decoded images", "the user's cache folder", _no_problem)
CACHE_GIB = Variable(
    "RESLAB_CACHE_GIB", "GiB of decoded images to keep; 0: none", f"{DEFAULT_CACHE_GIB:g}", _not_gib_or_0
)
MEMORY_GIB = Variable("RESLAB_MEMORY_GIB", "GiB to hold on the training device", "all that is free", _not_gib)
TUNE = Variable("RESLAB_TUNE", "0: measure no settings for dtype auto", "1", _not_switch)
GRAPH = Variable("RESLAB_GRAPH", "0: capture no CUDA graph of a step", "1", _not_switch)
MAX_PIXELS = Variable(
    "RESLAB_MAX_PIXELS", "pixels of an image that is still decoded", "64,000,000; resized, 256,000,000", _not_pixels
)
TEST_DATA = Variable("RESLAB_TEST_DATA", "folder of images for reslab's own tests", "none", _no_problem)
VARIABLES = (HOME, DATA, CACHE, CACHE_GIB, MEMORY_GIB, TUNE, GRAPH, MAX_PIXELS, TEST_DATA)


def text_of(variable: Variable) -> str:
    """The variable's value; "" if it is unset or blank.

    Raises:
        SpecError: the value is not valid.
    """
    text = os.environ.get(variable.name, "").strip()
    if text and (expected := variable.problem(text)) is not None:
        raise SpecError(f"{variable.name}: {text!r} is not valid; expected {expected}")
    return text


def number_of(variable: Variable) -> float | None:
    """As `text_of`, as a number; None if unset."""
    text = text_of(variable)
    return float(text) if text else None


def is_on(variable: Variable) -> bool:
    """As `text_of`, as a switch, which is on if unset."""
    return text_of(variable) != "0"


def check_environment() -> None:
    """Raises SpecError for the first variable that is not valid."""
    for variable in VARIABLES:
        text_of(variable)


def environment_rows() -> Iterator[tuple[str, bool | None, str]]:
    """For `reslab doctor`: each variable that is set, with its validity and meaning; and unknown variables that begin
    with RESLAB_.
    """
    for variable in VARIABLES:
        if os.environ.get(variable.name, "").strip():
            try:
                yield variable.name, None, f"{text_of(variable)}: {variable.meaning}"
            except SpecError as error:
                yield variable.name, False, str(error)
    known = {variable.name for variable in VARIABLES}
    for name in sorted(name for name in os.environ if name.startswith("RESLAB_") and name not in known):
        yield name, False, f"unknown variable; known: {', '.join(sorted(known))}"
