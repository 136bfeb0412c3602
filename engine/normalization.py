"""The setting `normalization`: a name, or the mean and standard deviation themselves. Loads no torch.

Written as MEAN/STD for pixels from 0 to 1, with one value for all channels or one per channel, separated by commas:
`0.4914,0.4822,0.4465/0.2470,0.2435,0.2616`.
"""

from __future__ import annotations

import math

from engine.errors import SpecError
from engine.text import counted

Moments = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation, one value per channel, for pixels from 0 to 1."""
NAMES = ("auto", "dataset", "imagenet", "none")
_EXPECTED = f"{', '.join(NAMES)}, or MEAN/STD with one value or one per channel, such as 0.5,0.5,0.5/0.2,0.2,0.2"


def read_moments(text: str) -> Moments | None:
    """The stated values, as many as were given; None for a name.

    Raises:
        SpecError: it is neither a name nor as many finite means as positive deviations.
    """
    if text in NAMES:
        return None
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
    except ValueError:
        raise _complaint(text) from None
    if len(mean) != len(std) or not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise _complaint(text)
    return mean, std


def stated_moments(text: str, channels: int) -> Moments | None:
    """The same for images with this many channels.

    Raises:
        SpecError: there are several values, and another number of channels.
    """
    found = read_moments(text)
    if found is None or len(found[0]) == channels:
        return found
    if len(found[0]) > 1:
        raise SpecError(
            f"normalization: {counted(len(found[0]), 'value')} for images with {counted(channels, 'channel')}; "
            "expected one value for all channels, or one per channel",
            "normalization",
        )
    return found[0] * channels, found[1] * channels


def _complaint(text: str) -> SpecError:
    return SpecError(f"normalization: {text!r} is not valid; expected {_EXPECTED}", "normalization")
