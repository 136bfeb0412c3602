"""What a convolution allocates internally on this processor: measured, since no formula predicts it.

The library behind torch's CPU convolutions selects its algorithm by processor, shapes and threads. Its blocked layouts,
unrolled images and per-thread sums can be larger than the weights (ResNet-18 on 28×28 images with AVX2: 72 MiB beside
weights of 9 MiB). So each distinct convolution of a network is run for real, with as many images as there are threads
and with twice as many, and extrapolated linearly to the batch size.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

_log = logging.getLogger("reslab")
_one_at_a_time = threading.Lock()
CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default)


@dataclass(frozen=True, slots=True)
class _TensorSpec:
    """A tensor's sizes, type and layout; for a batch without the number of images."""

    sizes: tuple[int, ...]
    dtype: torch.dtype
    channels_last: bool

    @property
    def num_bytes(self) -> int:
        return math.prod(self.sizes) * self.dtype.itemsize

    def make(self, num_images: int | None) -> Tensor:
        sizes = self.sizes if num_images is None else (num_images, *self.sizes)
        made = torch.zeros(sizes, dtype=self.dtype)
        return made.contiguous(memory_format=torch.channels_last) if self.channels_last else made


@dataclass(frozen=True, slots=True)
class Convolution:
    """One convolution, forward or backward, for any batch size. `batched` marks the tensors with a batch dimension.

    The arguments of forward are images, weight and bias; of backward gradient, images and weight.
    """

    backward: bool
    tensors: tuple[_TensorSpec | None, ...]
    batched: tuple[bool, ...]
    options: tuple[Any, ...]

    @classmethod
    def of(cls, func: Any, arguments: tuple[Any, ...]) -> Convolution:
        """The call `func(*arguments)`; `func` is one of `CONVOLUTIONS`."""
        backward = func is CONVOLUTIONS[1]
        batched = (True, True, False) if backward else (True, False, False)
        tensors = tuple(
            _like(tensor, split) if isinstance(tensor, Tensor) else None
            for tensor, split in zip(arguments[:3], batched, strict=True)
        )
        options = tuple(tuple(value) if isinstance(value, list | tuple) else value for value in arguments[3:])
        return cls(backward, tensors, batched, options)

    def bound(self, num_images: int) -> int:
        """An upper bound in bytes, from observation: four times the weights per thread, plus a new layout of images and
        results.
        """
        sizes = [spec.num_bytes * (num_images if split else 1) for spec, split in self._present()]
        weights = sum(spec.num_bytes for spec, split in self._present() if not split)
        return 5 * sum(sizes) + 5 * torch.get_num_threads() * weights

    def _present(self) -> list[tuple[_TensorSpec, bool]]:
        return [(spec, split) for spec, split in zip(self.tensors, self.batched, strict=True) if spec is not None]

    def make(self, num_images: int) -> Callable[[], object]:
        """The call on `num_images` images of zeros."""
        arguments = [
            spec.make(num_images if split else None) if spec else None
            for spec, split in zip(self.tensors, self.batched, strict=True)
        ]
        func = CONVOLUTIONS[self.backward]
        return lambda: func(*arguments, *self.options)


def _like(tensor: Tensor, split: bool) -> _TensorSpec:
    channels_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    plain = tensor.is_contiguous()
    return _TensorSpec(tuple(tensor.shape[split:]), tensor.dtype, channels_last and not plain)


def inner_peak(call: Convolution, num_images: int) -> int:
    """Peak bytes that `call` holds beyond its arguments, its results included; 0 if unknown."""
    growth = _growth(call, torch.get_num_threads())
    return max(accumulate(round(start + step * num_images) for start, step in growth), default=0)


@lru_cache(maxsize=4096)
def _growth(call: Convolution, num_threads: int) -> tuple[tuple[float, float], ...]:
    """Each allocation (negative: release) in order, as a constant part and a part per image, in bytes."""
    few = max(num_threads, 2)
    try:
        with _one_at_a_time:
            first, second = (_allocations(call.make(number)) for number in (few, 2 * few))
    except Exception:  # private parts of torch failed: a forecast without workspaces is better than none
        _warn_once()
        return ()
    if len(first) != len(second):  # another algorithm with more images: use only the peak
        first, second = [max(accumulate(first), default=0)], [max(accumulate(second), default=0)]
    steps = [(b - a) / few for a, b in zip(first, second, strict=True)]
    return tuple((a - step * few, step) for a, step in zip(first, steps, strict=True))


@cache
def _warn_once() -> None:
    _log.warning("the workspaces of convolutions are unknown", exc_info=True)


def _allocations(work: Callable[[], object]) -> list[int]:
    with track_allocations() as sizes:
        work()
    return sizes


@contextmanager
def track_allocations() -> Iterator[list[int]]:
    """Record this thread's allocations with torch's legacy profiler: it starts at once and writes nothing."""
    from torch._C._autograd import _disable_profiler_legacy, _enable_profiler_legacy
    from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig

    sizes: list[int] = []
    config = ProfilerConfig(ProfilerState.CPU, False, True, False, False, False, _ExperimentalConfig())
    _enable_profiler_legacy(config)
    try:
        yield sizes
    finally:
        threads = _disable_profiler_legacy()
    events: list[Any] = [event for thread in threads for event in thread]
    sizes += [event.cpu_memory_usage() for event in events if event.kind() == "memory_alloc"]
