"""How much memory a run may still take on its device: what is free there, and within the bound that a person set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.environment import MEMORY_GIB, number_of

if TYPE_CHECKING:
    import torch


def memory_bound() -> int | None:
    """Bytes that reslab may hold on the training device altogether (RESLAB_MEMORY_GIB); None where none is set.

    Raises:
        SpecError: the variable is no number above 0.
    """
    bound = number_of(MEMORY_GIB)
    return None if bound is None else int(bound * 2**30)


SHARE_FOR_IMAGES = 0.5  # of the room; the network, its gradients and activations need the rest


def images_fit(num_bytes: int, room: int) -> bool:
    """Whether a dataset of this size is kept on the device, rather than streamed to it."""
    return num_bytes <= room * SHARE_FOR_IMAGES


def room_bytes(device: torch.device, held_bytes: int) -> int:
    """Bytes that can be had on `device` now; `held_bytes` is what reslab holds there already.

    On a GPU that is the driver's free memory and what torch's allocator has reserved and not given out; else the
    host's available memory.
    """
    free = free_bytes(device)
    bound = memory_bound()
    return free if bound is None else max(min(free, bound - held_bytes), 0)


def free_bytes(device: torch.device) -> int:
    """Bytes that nobody holds on `device`."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil

    return min(int(psutil.virtual_memory().available), container_room())


GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def container_room() -> int:
    """What the control groups of this process leave (version 2), its own and all above it; a lot where there are none.

    Files that the system keeps in memory count for a group, but it lets them go where memory is asked for.
    """
    try:
        own = next(line for line in OWN_GROUP.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        own = "0::/"
    inside = Path(own.removeprefix("0::").strip("/"))
    return min(_group_room(GROUPS / part) for part in (inside, *inside.parents))


def _group_room(group: Path) -> int:
    try:
        most = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        kept = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(most - used + int(kept.get("inactive_file", 0)), 0)
    except (OSError, ValueError):  # "max" is no number: no limit
        return 2**62


def bound_gpu(device: torch.device) -> None:
    """Let torch's allocator on a GPU keep to the bound that a person set, if there is one."""
    bound = memory_bound()
    if device.type == "cuda" and bound is not None:
        import torch

        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(bound / total, 1.0), device)
