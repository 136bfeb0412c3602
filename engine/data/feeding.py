"""Feed batches to the network: indexed on the device, read ahead by a thread if the images do not fit there, or decoded
ahead by several if they do not fit on the disk either (`streaming`).

Either way a batch has the same pixels in the same order, so a run does not depend on where its images are.
"""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import torch
from torch import Tensor

from engine.control import Control
from engine.data.images import Split
from engine.memory.freeing import empty_caches
from engine.memory.out_of_memory import none_if_out_of_memory
from engine.progress import LoadingStopped

_AHEAD = 3  # batches to prefetch: enough to hide one slow read, few enough to keep

Batch = tuple[Tensor, Tensor]


def feed(
    split: Split, order: Tensor | None, bounds: Sequence[tuple[int, int]], device: torch.device,
    control: Control | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Images (n, C, H, W) uint8 and labels (n,) of each batch, on `device`. Ends early if `control` requests a stop
    while a batch is still being decoded.

    Args:
        order: (N,) int64 on the CPU, positions in the split; None: in stored order.
        bounds: start and end of each batch in `order`.

    Raises:
        DatasetError: a file that is decoded as it is used has changed, or is gone.
    """
    if split.source is not None:
        yield from _decode_ahead(split, _parts(order, bounds), device, control)
    elif not split.is_on(device):
        yield from _read_ahead(split, _parts(order, bounds), device)
    elif order is None:
        for start, stop in bounds:
            yield split.images[start:stop], split.labels[start:stop]
    else:
        order = order.to(device)
        for start, stop in bounds:
            chosen = order[start:stop]
            # index_select copies whole images, indexing with brackets copies pixel by pixel.
            yield _retry(lambda chosen=chosen: (split.images.index_select(0, chosen), split.labels[chosen]))  # type: ignore[misc]


def _parts(order: Tensor | None, bounds: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The positions of each batch."""
    return [torch.arange(start, stop) if order is None else order[start:stop] for start, stop in bounds]


def _moved(images: Tensor, labels: Tensor, device: torch.device) -> Batch:
    return _retry(lambda: (images.to(device, non_blocking=True), labels.to(device, non_blocking=True)))


def _retry(work: Callable[[], Batch]) -> Batch:
    """Run `work`; if memory runs out, empty the caches and retry once. A generator that raised cannot resume."""
    done = none_if_out_of_memory(work)
    if done is not None:
        return done
    gc.collect()
    empty_caches()
    return work()


def _decode_ahead(
    split: Split, parts: Sequence[Tensor], device: torch.device, control: Control | None
) -> Iterator[Batch]:
    with suppress(LoadingStopped):
        for chosen, images in zip(parts, split.read(parts, device.type == "cuda", control), strict=True):
            yield _moved(images, split.labels[chosen], device)


def _read_ahead(split: Split, parts: Sequence[Tensor], device: torch.device) -> Iterator[Batch]:
    waiting: queue.Queue[Batch | Exception | None] = queue.Queue(_AHEAD)
    closed = threading.Event()

    def offer(item: Batch | Exception | None) -> bool:
        while not closed.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def read() -> None:
        try:
            for chosen in parts:
                batch = split.take(chosen)
                if device.type == "cuda":  # page-locked memory copies while the GPU computes
                    batch = Split(batch.images.pin_memory(), batch.labels.pin_memory())
                if not offer((batch.images, batch.labels)):
                    return
            offer(None)
        except Exception as error:  # such as a deleted file: raised again in the consumer
            offer(error)

    reader = threading.Thread(target=read, name="images", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield _moved(*item, device)
    finally:
        closed.set()
        reader.join()
