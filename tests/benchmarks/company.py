"""A run beside other work on the same cores: how much of its quiet speed is left, and what quiet itself costs."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.device import cpu_name

_PHASE_S = 8.0
_SETTLE_S = 1.5  # after company has come: what the run needs to notice it
_BUSY = (sys.executable, "-c", "while True: pass")


class _Training:
    """`reslab train` on the digits in a process of its own, as somebody else would start it."""

    def __init__(self, home: Path, settings: dict[str, str]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
        command = (
            sys.executable,
            "-m",
            "tui",
            "--home",
            str(home),
            "train",
            "digits",
            "resnet18",
            "--dtype",
            "float32",
        )
        self._process = subprocess.Popen(
            (*command, "--epochs", "10000", "--json"), stdout=subprocess.PIPE, text=True, bufsize=1,
            stderr=subprocess.DEVNULL, env={**environment, **settings, "RESLAB_TUNE": "0"},
        )  # fmt: skip
        self.num_threads = 0
        self._points = self._read()

    def _read(self) -> Iterator[tuple[float, int]]:
        """Seconds of training and images so far."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if event["event"] == "run_started":
                self.num_threads = event["resolved"]["num_threads"]
            if event["event"] == "steps_completed":
                yield event["train_s"], event["images"]

    def images_per_s(self, seconds: float) -> float:
        """Over about so many seconds from now on."""
        began, (first_s, first_images) = time.monotonic(), next(self._points)
        for train_s, images in self._points:
            if time.monotonic() - began >= seconds:
                return (images - first_images) / (train_s - first_s)
        raise RuntimeError("the run has ended")

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()


@contextmanager
def _trained(settings: dict[str, str] | None = None) -> Iterator[_Training]:
    with tempfile.TemporaryDirectory() as home:
        training = _Training(Path(home), settings or {})
        try:
            training.images_per_s(_SETTLE_S)
            yield training
        finally:
            training.stop()


@contextmanager
def _busy(number: int) -> Iterator[None]:
    processes = [subprocess.Popen(_BUSY) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def company(num_rounds: int = 5) -> None:
    """ResNet-18 on the digits beside one and two busy processes, there at the start or coming in mid-run, by turns."""
    names = ("quiet", "one came", "two came", "one was there", "two were there", "libgomp's own", "active")
    found: dict[str, list[float]] = {name: [] for name in names}
    threads: dict[str, set[int]] = {name: set() for name in names}
    for _ in range(num_rounds):
        for name, value, count in _round():
            found[name].append(value)
            threads[name].add(count)
            print(f"  {name}: {value:.0f}", flush=True)
    print(f"company  ({cpu_name()}, n = {num_rounds}, medians of images/s)")
    quiet = statistics.median(found["quiet"])
    for name, values in found.items():
        of_quiet = f"{statistics.median(values) / quiet:.2f} of quiet"
        print(f"  {name:<15} {statistics.median(values):7.0f}  ({min(values):.0f} to {max(values):.0f})  {of_quiet}  "
              f"{sorted(threads[name])} threads")  # fmt: skip


def _round() -> Iterator[tuple[str, float, int]]:
    with _trained() as training:
        yield "quiet", training.images_per_s(_PHASE_S), training.num_threads
        for number, name in ((1, "one came"), (2, "two came")):
            with _busy(number):
                training.images_per_s(_SETTLE_S)
                yield name, training.images_per_s(_PHASE_S), training.num_threads
    for number, name in ((1, "one was there"), (2, "two were there")):
        with _busy(number), _trained() as training:
            yield name, training.images_per_s(_PHASE_S), training.num_threads
    for name, setting in (("libgomp's own", {"GOMP_SPINCOUNT": "300000"}), ("active", {"OMP_WAIT_POLICY": "ACTIVE"})):
        with _trained(setting) as training:
            yield name, training.images_per_s(_PHASE_S), training.num_threads


def alone(num_rounds: int = 8) -> None:
    """The same with nothing beside it, by turns with libgomp's own setting and with the active policy; the order turns
    round each time. Ratios are of the same round.
    """
    settings = {"ours": {}, "libgomp's own": {"GOMP_SPINCOUNT": "300000"}, "active": {"OMP_WAIT_POLICY": "ACTIVE"}}
    found: dict[str, list[float]] = {name: [] for name in settings}
    for number in range(num_rounds):
        for name in list(settings)[:: 1 if number % 2 == 0 else -1]:
            with _trained(settings[name]) as training:
                found[name].append(training.images_per_s(_PHASE_S))
            print(f"  {name}: {found[name][-1]:.0f}", flush=True)
    print(f"alone  ({cpu_name()}, n = {num_rounds}, images/s)")
    for name, values in found.items():
        ratios = sorted(ours / value for ours, value in zip(found["ours"], values, strict=True))
        print(f"  {name:<15} median {statistics.median(values):7.0f}  ours is {statistics.median(ratios):.2f} of it  "
              f"({ratios[0]:.2f} to {ratios[-1]:.2f})")  # fmt: skip
