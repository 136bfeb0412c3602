"""The benchmarks themselves. Each prints its pairs' medians, their ratio and the machine."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from tests.benchmarks import app, auditing, cluster, company, predicting, training, tuning
from tests.benchmarks.reporting import report
from tests.benchmarks.terminal import as_installed, run_in_terminal

RESLAB = (sys.executable, "-m", "tui")


def first_paint(num_pairs: int = 10) -> None:
    """Start until the first screen is written, at 120×36: reslab against an app of three widgets."""
    with tempfile.TemporaryDirectory() as home:
        pairs = []
        for _ in range(num_pairs + 1):
            ours = run_in_terminal(RESLAB, (120, 36), b"What will run", {"RESLAB_HOME": home})
            plain = run_in_terminal(
                (sys.executable, "-m", "tests.benchmarks.three_widgets"), (120, 36), b"three widgets"
            )
            pairs.append((ours, plain))
    report("first paint", "s", pairs[1:], ("reslab", "three widgets"))  # the first pair warms the disk cache


def app_speed(num_pairs: int = 5, dataset: str = "digits") -> None:
    """Training images per second with ResNet-18, in the app on its live screen and without it; `app-speed 5 mnist`."""
    of_mnist = ("mnist", "resnet18", "--image-size", "8", "--epochs", "1")
    with tempfile.TemporaryDirectory() as home:
        train = (*RESLAB, "--home", home, "train", *(of_mnist if dataset == "mnist" else ("digits", "resnet18")))
        pairs = []
        for _ in range(num_pairs):
            run_in_terminal((*train, "--tui", "--exit"), (120, 36), None)
            subprocess.run((*train, "--json"), check=True, stdout=subprocess.DEVNULL)
            runs = subprocess.run((*RESLAB, "--home", home, "runs", "--json"), check=True, capture_output=True)
            headless, in_app = (run["train_images_per_s"] for run in json.loads(runs.stdout)[:2])
            pairs.append((in_app, headless))
    report("training speed", "images/s", pairs, ("in the app", "headless"))


def help_time(num_pairs: int = 10) -> None:
    """`reslab --help` and `reslab runs` against an interpreter that does nothing."""

    def seconds(command: Sequence[str]) -> float:
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=as_installed())
        return time.perf_counter() - began

    with tempfile.TemporaryDirectory() as home:
        for words in (("--help",), ("--home", home, "runs")):
            command, nothing = (*RESLAB, *words), (sys.executable, "-c", "pass")
            pairs = [(seconds(command), seconds(nothing)) for _ in range(num_pairs + 1)]
            report(f"reslab {words[-1]}", "s", pairs[1:], (f"reslab {words[-1]}", "python -c pass"))


def feeding(num_pairs: int = 5) -> None:
    """Normalised batches of 128 photographs a second: the decoded cache against ImageFolder and two workers."""
    from tests.benchmarks.feeding import feeding as feed_both

    feed_both(num_pairs)


def streaming(num_pairs: int = 5) -> None:
    """Batches of 128 photographs a second, decoded as they are used: threads against a DataLoader's workers."""
    from tests.benchmarks.streaming import streaming as stream_both

    stream_both(num_pairs)


def million_files(number: int = 1_000_000) -> None:
    """Seconds and peak memory of listing, decoding, splitting and listing again a million files; `million-files N`."""
    from tests.benchmarks.million_files import million_files as make_and_measure

    make_and_measure(number)


def chart(num_pairs: int = 50) -> None:
    """One drawing of a chart with a million points against one with a hundred, at 100×16 cells."""
    from tui.widgets.chart import Chart, Line

    widget = Chart("loss")

    def seconds(num_points: int) -> float:
        x = np.arange(num_points, dtype=float)
        widget._lines, widget._x_max = [Line("train", "#56B4E9", x, np.sin(x / num_points) + np.cos(7 * x))], num_points
        began = time.perf_counter()
        widget.draw_lines(100, 16)
        return 1000 * (time.perf_counter() - began)

    report(
        "chart",
        "ms",
        [(seconds(1_000_000), seconds(100)) for _ in range(num_pairs)],
        ("1,000,000 points", "100 points"),
    )


def gradients(num_pairs: int = 6) -> None:
    """Training images per second with the gradients measured and with them left alone, ResNet-18 on the digits."""
    from unittest.mock import PropertyMock, patch

    from engine.events import RunEnded
    from engine.lab import Lab
    from engine.paths import Folders
    from engine.spec import RunSpec
    from engine.step.gradients import Gradients

    def images_per_s(measured: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            events = Lab(Folders(root, root, root)).train(RunSpec("digits", "resnet18")).events()
            with nullcontext() if measured else patch.object(Gradients, "due", PropertyMock(return_value=False)):
                *_, ended = events
        assert isinstance(ended, RunEnded)
        return ended.train_images_per_s or 0.0

    images_per_s(True)  # warms torch up
    pairs = []
    for number in range(num_pairs):
        first = images_per_s(number % 2 == 0)
        second = images_per_s(number % 2 == 1)
        pairs.append((first, second) if number % 2 == 0 else (second, first))
    report("gradients", "images/s", pairs, ("measured", "left alone"))


def gauges(num_pairs: int = 200) -> None:
    """Processor time of one reading of all gauges, of which the app makes one a second, against reading the clock."""
    from engine.memory.gauges import Gauges

    opened = Gauges()

    def milliseconds(work: Callable[[], object]) -> float:
        began = time.thread_time()
        work()
        return 1000 * (time.thread_time() - began)

    milliseconds(opened.read)
    pairs = [(milliseconds(opened.read), milliseconds(time.time)) for _ in range(num_pairs)]
    report("gauges", "ms", pairs, ("a reading", "the clock"))


def checkpoints(num_times: int = 10) -> None:
    """What a checkpoint takes from the training: copying the state, and the writing thread's processor time."""
    import torch

    from engine.device import Placement, cpu_name
    from engine.shape import DataShape
    from engine.spec import RunSpec
    from engine.step.learner import build_learner
    from engine.training.checkpoint import snapshot, write_checkpoint

    placement = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "benchmark")
    for model in ("resnet18", "resnet50"):
        spec = RunSpec("cats-dogs", model)
        learner = build_learner(spec, DataShape(3, 64, 64, 2), ((0.5,) * 3, (0.5,) * 3), placement)
        seconds = []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(num_times + 1):
                began, thread_began = time.perf_counter(), time.thread_time()
                tensors = snapshot(learner.model, learner.optimizer)
                copied = time.perf_counter() - began
                thread_began = time.thread_time()
                file = write_checkpoint(Path(folder), tensors, {"step": number})
                seconds.append((copied, time.thread_time() - thread_began))
                (Path(folder) / file.name).unlink()
        copied, written = (statistics.median(values) for values in zip(*seconds[1:], strict=True))
        share = (copied + written) / (0.8 * spec.checkpoint_every)
        print(f"checkpoint of {model}, {file.num_bytes / 2**20:.0f} MiB  ({cpu_name()}, n = {num_times})")
        print(
            f"  copied in {copied:.3f} s, written with {written:.3f} s of processor time: {100 * share:.2f} % of a core"
        )


BENCHMARKS: dict[str, Callable[..., None]] = {
    "first-paint": first_paint,
    "app-speed": app_speed,
    "help": help_time,
    "chart": chart,
    "gradients": gradients,
    "gauges": gauges,
    "headless": training.headless,
    "auto": training.auto,
    "autotune": tuning.autotune,
    "libraries": training.libraries,
    "fast": training.fast,
    "evaluation": training.evaluating,
    "gpu": training.gpu,
    "checkpoints": checkpoints,
    "alone": company.alone,
    "company": company.company,
    "predict-memory": predicting.memory,
    "audit": auditing.audit,
    "feeding": feeding,
    "streaming": streaming,
    "million-files": million_files,
    "many-runs": app.many_runs,
    "keys": app.keys,
    "watching": app.watching,
    "app-memory": app.app_memory,
    "looking-memory": app.looking_memory,
    "cluster-queue": cluster.queue,
    "cluster-stream": cluster.stream,
    "cluster-rates": cluster.rates,
}


def main(arguments: Sequence[str]) -> int:
    if arguments and arguments[0] == "forecast":
        from tests.benchmarks import forecasting

        forecasting.main(list(arguments[1:]))
        return 0
    if not arguments or arguments[0] not in BENCHMARKS:
        for name, benchmark in BENCHMARKS.items():
            print(f"{name:<12} {(benchmark.__doc__ or '').splitlines()[0]}")
        print("forecast     The memory forecast against torch's CPU allocator; --help tells of its options.")
        return 2
    os.environ.pop("NO_COLOR", None)
    BENCHMARKS[arguments[0]](*map(int, arguments[1:2]), *arguments[2:3])
    return 0
