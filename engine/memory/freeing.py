"""Free memory, measure how much was freed, and name what stays alive and what holds it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType, ModuleType
from typing import Any

from engine.memory.gauges import Gauges, process_bytes
from engine.memory.ledger import Holding, Ledger

_CHAIN = 3  # how many referrers to follow


@dataclass(frozen=True, slots=True)
class Freed:
    """What was dropped, and how much memory that freed by measurement, in bytes (never below 0).

    `host_bytes` is the fall of this process's resident memory, `allocator_bytes` that of the memory reserved by torch's
    allocator on the GPUs, `driver_bytes` that of this process's memory according to NVML; None if there is nothing to
    measure. `kept` names what is still alive although it was dropped, and which object holds it.
    """

    dropped: tuple[Holding, ...]
    host_bytes: int
    allocator_bytes: int | None
    driver_bytes: int | None
    kept: tuple[str, ...] = ()


def free_memory(ledger: Ledger, numbers: frozenset[int] | None = None, gauges: Gauges | None = None) -> Freed:
    """Drop everything that no live run needs, or the holdings with these `numbers`; return spare memory."""
    host, allocator, driver = process_bytes(), _reserved_bytes(), _driver_bytes(gauges)
    taken = ledger.take_idle(numbers=numbers)
    dropped = tuple(holding for holding, _ in taken)
    watched = [(holding, weakref.ref(tensor)) for holding, value in taken for tensor in _tensors(value)]
    del taken
    gc.collect()
    if not any(holding.live for holding in ledger.holdings()):
        clear_workspaces()
    empty_caches()
    return Freed(
        dropped=dropped,
        host_bytes=max(host - process_bytes(), 0),
        allocator_bytes=_fall(allocator, _reserved_bytes()),
        driver_bytes=_fall(driver, _driver_bytes(gauges)),
        kept=tuple(_still_alive(watched)),
    )


def _fall(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else max(before - after, 0)


def _tensors(value: Any) -> Iterator[Any]:
    """The tensors of a value in the ledger: a network's, or a dataset's."""
    if hasattr(value, "parameters"):
        yield from value.parameters()
        yield from value.buffers()
        return
    for name in ("train", "val", "test"):
        split = getattr(value, name, None)
        if split is not None and split.rows is None:
            yield split.images


def _still_alive(watched: list[tuple[Holding, weakref.ref[Any]]]) -> list[str]:
    """One sentence per holding with a tensor that is still alive."""
    sentences: dict[int, str] = {}
    for holding, reference in watched:
        if holding.number not in sentences and (tensor := reference()) is not None:
            name = f"{holding.label} #{holding.run}"
            sentences[holding.number] = f"{name} was not freed: held by {_holder(tensor)}"
            del tensor
    return list(sentences.values())


def _holder(thing: Any) -> str:
    """What refers to `thing`, from the nearest outwards, in words."""
    words: list[str] = []
    chain = [thing]
    found: list[Any] = []
    for _ in range(_CHAIN):
        own = (chain, found)
        found = [
            item
            for item in gc.get_referrers(chain[-1])
            if not any(item is mine for mine in own) and not _is_own_frame(item)
        ]
        if not found:
            break
        words.append(_describe(found[0]))
        if isinstance(found[0], FrameType | ModuleType):
            break
        chain.append(found[0])
    return ", in ".join(words) or "torch itself"


def _is_own_frame(item: Any) -> bool:
    """This search's own frames refer to the thing as well; skip them."""
    return isinstance(item, FrameType) and item.f_code.co_filename == __file__


def _describe(holder: Any) -> str:
    if isinstance(holder, FrameType):
        return f"the running function {holder.f_code.co_name} ({holder.f_code.co_filename}:{holder.f_lineno})"
    if isinstance(holder, ModuleType):
        return f"the module {holder.__name__}"
    name = type(holder).__qualname__
    return f"a {name}" if isinstance(holder, dict | list | tuple | set) else f"an object of the class {name}"


def _reserved_bytes() -> int | None:
    """Bytes that torch has reserved on all GPUs; None if torch is not loaded or has used none."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda") or not torch.cuda.is_initialized():
        return None
    return sum(int(torch.cuda.memory_reserved(index)) for index in range(torch.cuda.device_count()))


def _driver_bytes(gauges: Gauges | None) -> int | None:
    """Bytes that this process holds on all GPUs, according to NVML."""
    if gauges is None or _reserved_bytes() is None:
        return None
    own = [gpu.process_bytes for gpu in gauges.read().gpus]
    return sum(known for known in own if known is not None) if any(known is not None for known in own) else None


def clear_workspaces() -> None:
    """Release the workspaces that cuBLAS keeps per stream: 32 MiB on Hopper, 8 MiB before (torch's notes on CUDA). Only
    while no captured graph lives: it would go on using them.
    """
    if _reserved_bytes() is not None:
        sys.modules["torch"]._C._cuda_clearCublasWorkspaces()  # the call named in those notes


def empty_caches() -> None:
    """Return the allocators' spare memory to the driver and to the operating system."""
    if _reserved_bytes() is not None:
        sys.modules["torch"].cuda.empty_cache()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)  # glibc keeps freed heap pages otherwise
