"""Shares the processor's cores with other processes. Loads no torch.

torch splits each operation over a team of threads that meet at a barrier. The first to arrive spins: fine on a quiet
machine, ruinous on a shared one, where the spinning thread uses the core that a late thread is waiting for. Three
measures help, and only the first can change a figure:

- a run starts with as many threads as cores are free at that moment;
- a thread spins for a limited time (`GOMP_SPINCOUNT`, read by libgomp when it is loaded);
- while other processes take cores from the run, threads do not spin at all: libgomp stops spinning while it manages
  more threads than there are cores (libgomp's config/linux/wait.h, `do_spin`), so idle threads are added, and removed
  once the cores are free again.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine.text import counted

SPIN_VARIABLE = "GOMP_SPINCOUNT"
_SPINS = "100000"  # about a millisecond: as fast as libgomp's default of 300,000 on a quiet machine
_OWN_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_LEAST_WINDOW_S = 0.25  # of the kernel's ticks of 10 ms
_LOOK_EVERY_S = 0.5
_WAITED = 0.2  # core seconds per second that our threads were ready but not running
_QUIET_LOOKS = 4


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Call before torch is loaded. The user's own settings are kept."""
    if not any(name in environment for name in _OWN_CHOICES):
        environment[SPIN_VARIABLE] = _SPINS


def usable_cores() -> int:
    """Cores that this process may use: its CPU affinity, limited by its container's quota."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = container_cores()
    return bound if quota is None else max(1, min(bound, math.ceil(quota)))


def container_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The container's CPU quota, in cores; None if unlimited."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((root / "cpu" / f"cpu.cfs_{what}_us").read_text() for what in ("quota", "period"))
        except OSError:
            return None
    try:
        return float(quota) / float(period) if float(quota) > 0 else None
    except (ValueError, ZeroDivisionError):  # "max"
        return None


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds since an arbitrary moment: wall time, all work on our cores, our own work."""

    wall: float
    all: float
    own: float

    @classmethod
    def read(cls) -> _Clock | None:
        try:
            text = Path("/proc/stat").read_text()
        except OSError:
            return None
        mine = os.sched_getaffinity(0)
        ticks = 0
        for line in text.splitlines():
            name, *values = line.split()
            if name.startswith("cpu") and name[3:].isdigit() and int(name[3:]) in mine:
                user, nice, system, _idle, _waiting, irq, soft_irq, steal, *_ = map(int, values)
                ticks += user + nice + system + irq + soft_irq + steal
        times = os.times()
        own = times.user + times.system + times.children_user + times.children_system
        return cls(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own)


class OthersMeter:
    """Measures how many of this process's cores other processes use, on average since its creation."""

    def __init__(self) -> None:
        self._began = _Clock.read()

    def read(self) -> float | None:
        """None if the system does not report it. Measures for at least a quarter of a second."""
        if self._began is None:
            return None
        time.sleep(max(0.0, _LEAST_WINDOW_S - (time.monotonic() - self._began.wall)))
        now = _Clock.read()
        if now is None:
            return None
        busy = (now.all - self._began.all) - (now.own - self._began.own)
        return max(0.0, busy / (now.wall - self._began.wall))


def fair_num_threads(most: int, others: float | None) -> int:
    """How many of `most` threads to start while `others` cores are busy.

    One per free core, but at least half of the cores: if all are taken, the kernel divides the time.
    """
    cores = usable_cores()
    if others is None:
        return min(most, cores)
    return max(1, min(most, max(round(cores - others), cores // 2)))


def chose_threads_themselves(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the user has set the number of threads."""
    return any(name in environment for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))


def threads_text(num_threads: int, environment: Mapping[str, str] = os.environ) -> str:
    """How many threads compute, and how they wait for each other, as text."""
    chosen = [
        f"{name}={environment[name]}"
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", *_OWN_CHOICES)
        if name in environment
    ]
    waiting = "sleep while others need the cores" if _can_stop_spinning(environment) else "wait as the library decides"
    return f"{num_threads} on {counted(usable_cores(), 'core')}; they {waiting}" + (
        f"; {', '.join(chosen)}" if chosen else ""
    )


def _can_stop_spinning(environment: Mapping[str, str]) -> bool:
    return "OMP_WAIT_POLICY" not in environment and seconds_waited({}) is not None and _libgomp() is not None


@contextmanager
def considerate(num_threads: int) -> Iterator[None]:
    """Within the block, a team of `num_threads` does not spin while other processes take its cores."""
    if num_threads == 1 or not _can_stop_spinning(os.environ):
        yield
        return
    library = _libgomp()
    assert library is not None
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(library, num_threads, over), name="cores", daemon=True)
    watch.start()
    try:
        yield
    finally:
        over.set()
        watch.join()


def _watch(library: ctypes.CDLL, num_threads: int, over: threading.Event) -> None:
    """Check twice a second how long our threads waited for a core."""
    waited: dict[str, int] = {}
    seconds_waited(waited)
    crowd, quiet, began = None, 0, time.monotonic()
    while not over.wait(_LOOK_EVERY_S):
        found, now = seconds_waited(waited), time.monotonic()
        crowded = found is not None and found / (now - began) >= _WAITED
        began = now
        quiet = 0 if crowded else quiet + 1
        if crowded and crowd is None:
            crowd = Crowd(library, usable_cores() - num_threads + 2)
        elif crowd is not None and quiet >= _QUIET_LOOKS:
            crowd.leave()
            crowd = None
    if crowd is not None:
        crowd.leave()


class Crowd:
    """Additional libgomp threads, which sleep until `leave`."""

    def __init__(self, library: ctypes.CDLL, num_threads: int) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._stay, args=(library, max(num_threads, 2)), name="crowd", daemon=True
        )
        self._thread.start()

    def _stay(self, library: ctypes.CDLL, num_threads: int) -> None:
        nothing = ctypes.cast(ctypes.CDLL(None).getppid, ctypes.c_void_p)  # a C function that does almost nothing
        library.GOMP_parallel(nothing, None, num_threads, 0)
        self._over.wait()  # a team lives as long as its creating thread

    @property
    def stays(self) -> bool:
        return self._thread.is_alive()

    def leave(self) -> None:
        self._over.set()
        self._thread.join()


def seconds_waited(before: dict[str, int]) -> float | None:
    """Core seconds that our threads were ready but not running since the last call, which filled `before`.

    None if the kernel does not report it (schedstat's second figure, in nanoseconds).
    """
    waited = 0
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return None
    for number in threads:
        try:
            with open(f"/proc/self/task/{number}/schedstat") as file:
                found = int(file.read().split()[1])
        except (OSError, IndexError, ValueError):
            if not os.path.exists("/proc/self/schedstat"):
                return None
            continue  # it has ended
        waited += found - before.get(number, found)
        before[number] = found
    return waited / 1e9


def _libgomp() -> ctypes.CDLL | None:
    """The libgomp that torch uses; None if it uses another library, or is not loaded."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libgomp" in line}
    path = next((path for path in sorted(paths) if "torch" in path or "site-packages" not in path), None)
    if path is None:
        return None
    library = ctypes.CDLL(path)
    library.GOMP_parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    library.GOMP_parallel.restype = None
    return library
