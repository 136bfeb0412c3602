"""`reslab doctor`: what works on this machine, what does not, and how to fix it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.environment import environment_rows
from engine.errors import ReslabError
from engine.paths import Folders
from engine.text import safe_text

_PACKAGES = ("torch", "torchvision", "textual", "scikit-learn", "numpy", "pillow", "nvidia-ml-py", "safetensors")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. `ok` is None for information without a verdict."""

    subject: str
    ok: bool | None
    text: str


def doctor_command(folders: Folders, as_json: bool) -> int:
    """Print all findings; exit code 1 if a check failed."""
    findings = list(examine(folders))
    if as_json:
        print_json(findings)
    else:
        marks = {True: "ok", False: "NOT OK", None: ""}
        print(columns([(marks[item.ok], item.subject, safe_text(item.text)) for item in findings]))
    return 1 if any(item.ok is False for item in findings) else 0


def examine(folders: Folders) -> Iterator[Finding]:
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _torch, _gpus, _sqlite, _terminal)
    for check in checks:
        yield from check()
    for name, ok, text in environment_rows():
        yield Finding(name, ok, text)
    yield _folder("home", folders.home)
    yield _folder("data", folders.data)


def _versions() -> Iterator[Finding]:
    yield Finding("python", sys.version_info >= (3, 11), sys.version.split()[0])
    for name in _PACKAGES:
        try:
            yield Finding(name, None, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield Finding(name, False, "not installed; run uv sync")


def _torch() -> Iterator[Finding]:
    from engine.cores import threads_text
    from engine.device import choose_placement, device_name, import_torch
    from engine.spec import RunSpec

    try:
        torch = import_torch()
        placement = choose_placement(RunSpec("digits", "resnet18"))
    except ReslabError as error:
        yield Finding("torch works", False, str(error))
        return
    yield Finding("torch works", True, "torch and torchvision: versions match")
    dtype = str(placement.dtype).removeprefix("torch.")
    yield Finding("threads", None, threads_text(torch.get_num_threads()))
    yield Finding("device", True, f"{placement.device}, {device_name(placement.device)}: {placement.reason}; {dtype}")


def _gpus() -> Iterator[Finding]:
    from engine.memory.gauges import Gauges

    gauges = Gauges()
    reading = gauges.read()
    if reading.no_gpu:
        yield Finding("NVML", None, f"{reading.no_gpu}; the app shows the host's memory instead")
    else:
        yield Finding("NVML", True, f"driver {gauges.driver_version()}")
    for gpu in reading.gpus:
        total = f"{gpu.total_bytes / 2**30:.1f} GiB" if gpu.total_bytes else "unknown size"
        yield Finding(f"GPU {gpu.index}", True, f"{gpu.name}, {total}")
    yield Finding("host memory", None, f"{reading.host.total_bytes / 2**30:.1f} GiB")


def _sqlite() -> Iterator[Finding]:
    version = sqlite3.sqlite_version_info
    text = sqlite3.sqlite_version
    if version <= (3, 51, 2):
        text += ": its write-ahead log can be corrupted by two connections, so the rollback journal is used"
    yield Finding("SQLite", True, text)


def _terminal() -> Iterator[Finding]:
    size = shutil.get_terminal_size()
    kind = os.environ.get("TERM", "unset")
    if not sys.stdout.isatty():
        yield Finding(
            "terminal", None, "standard output is not a terminal; the app needs one, the command line does not"
        )
        return
    enough = size.columns >= 80 and size.lines >= 24
    yield Finding("terminal", enough, f"{kind}, {size.columns}×{size.lines}" + ("" if enough else "; 80×24 is needed"))


def _folder(name: str, path: Path) -> Finding:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    writable = nearest.is_dir() and os.access(nearest, os.W_OK)
    free = shutil.disk_usage(nearest).free / 2**30
    state = f"{free:.0f} GiB free" if writable else "not writable; choose another"
    return Finding(f"{name} folder", writable, f"{path}, {state}" + ("" if path.exists() else ", does not exist yet"))
