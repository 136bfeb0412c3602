"""What decoding a dataset will take, from its files' headers and a short sample of this machine's speed."""

from __future__ import annotations

import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engine.data.cache import ToDecode, measured_pass_s
from engine.data.cache_index import INDEX
from engine.data.decoding import num_threads, read_and_decode, read_header
from engine.data.depth import PixelRange
from engine.data.room import DecodePlan, exceeds_bound, exceeds_disk
from engine.data.sizing import spread

_SAMPLE_S = 0.3  # at most, unless a single file takes longer
_SAMPLED = 64  # files at most, spread over the whole list
_REMEMBERED = 16


def plan_decoding(what: ToDecode, cache: Path) -> DecodePlan | None:
    """How the images will be decoded; None if the cache has them already, or none can be read.

    Raises:
        OSError: a file is gone.
        SpecError: RESLAB_CACHE_GIB is not a number.
    """
    shape = _height_width(what)
    if shape is None:
        return None
    num_bytes = len(what.paths) * what.channels * shape[0] * shape[1]
    reason = exceeds_bound(num_bytes)
    if reason is None and (what.entry(cache) / INDEX).is_file():
        return None
    reason = reason or exceeds_disk(num_bytes, cache)
    measured_s = None if reason is None else measured_pass_s(what, cache)
    pass_s = _pass_s(what) if measured_s is None else measured_s
    return DecodePlan(len(what.paths), num_bytes, pass_s, reason, is_counted=measured_s is not None)


def _height_width(what: ToDecode) -> tuple[int, int] | None:
    if what.size is not None:
        return what.size, what.size
    header = next((found for path in what.paths if (found := read_header(path)) is not None), None)
    return None if header is None else (header.size[1], header.size[0])


def _pass_s(what: ToDecode) -> float:
    """Seconds to decode every file, by as many threads as will do it; measured once in a process."""
    if what.key not in _known:
        _known[what.key] = _measured_s(what)
        while len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return _known[what.key]


_known: OrderedDict[str, float] = OrderedDict()


def _measured_s(what: ToDecode) -> float:
    files = spread(what.paths, _SAMPLED)
    _decode(what, files[0])  # loads Pillow's plugin
    began, done, threads = time.perf_counter(), 0, num_threads()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), 2 * threads):
            done += len(list(pool.map(lambda path: _decode(what, path), files[start : start + 2 * threads])))
            if time.perf_counter() - began > _SAMPLE_S:
                break
    return (time.perf_counter() - began) / done * len(what.paths)


def _decode(what: ToDecode, path: Path) -> None:
    read_and_decode(path, what.size, what.channels, PixelRange())
