"""How much memory a run may still use on its device: free memory there, within the user's limit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.environment import MEMORY_GIB, number_of

if TYPE_CHECKING:
    import torch


def memory_bound() -> int | None:
    """Bytes that reslab may hold on the training device in total (RESLAB_MEMORY_GIB); None without a limit.

    Raises:
        SpecError: the variable is not a number above 0.
    """
    bound = number_of(MEMORY_GIB)
    return None if bound is None else int(bound * 2**30)


SHARE_FOR_IMAGES = 0.5  # of the headroom; the network, its gradients and activations need the rest


def images_fit(num_bytes: int, headroom: int) -> bool:
    """Whether to keep a dataset of this size on the device rather than stream it."""
    return num_bytes <= headroom * SHARE_FOR_IMAGES


def headroom_bytes(device: torch.device, held_bytes: int, bound: int | None = None) -> int:
    """Bytes available on `device` now; `held_bytes` is what reslab holds there already, `bound` what it
    may hold, None: the user's limit.

    On a GPU that is the driver's free memory plus what torch's allocator has reserved and not allocated; otherwise the
    host's available memory.
    """
    free = free_bytes(device)
    bound = memory_bound() if bound is None else bound
    return free if bound is None else max(min(free, bound - held_bytes), 0)


def free_bytes(device: torch.device) -> int:
    """Bytes on `device` that no process holds."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min(int(psutil.virtual_memory().available), container_headroom())


GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def container_headroom() -> int:
    """Memory left by the control groups of this process (version 2), its own and all above it; very large without any.

    Page cache counts for a group, but the system drops it when memory is needed.
    """
    try:
        own = next(line for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "0::/"
    inside = Path(own.removeprefix("0::").strip("/"))
    return min(_group_headroom(GROUPS / part) for part in (inside, *inside.parents))


def _group_headroom(group: Path) -> int:
    try:
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(most - used + int(kept.get("inactive_file", 0)), 0)
    except (OSError, ValueError):  # "max": no limit
        return 2**62


def bound_gpu(device: torch.device, bound: int | None = None) -> None:
    """Make torch's allocator on a GPU keep to the user's limit, if there is one."""
    bound = memory_bound() if bound is None else bound
    if device.type == "cuda" and bound is not None:
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(bound / total, 1.0), device)
