"""The forecast against the peak that torch's CPU allocator really reached, model by model, batch by batch.

torch's profiler reports every allocation of its CPU allocator, workspaces of convolutions included. Each case is a
process of its own: an evaluation batch and two training steps on random pixels.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable

import torch

from engine.device import Placement, cpu_name
from engine.memory.calibration import Calibration
from engine.memory.forecast import forecast
from engine.memory.timeline import Forecast
from engine.models.registry import MODELS, find_model, misfit
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.evaluation import evaluation_batch, forward
from engine.training.gradients import Gradients
from engine.training.learner import build_learner

BATCHES = (16, 64, 128)
SIZES = (28, 64, 224)
LIMIT = 12 * 2**30  # bytes: larger forecasts are not tried
CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "benchmark")


def spec_of(model: str, batch: int) -> RunSpec:
    return RunSpec("digits", model, batch_size=batch)


def shape_of(size: int) -> DataShape:
    return DataShape(3, size, size, 10)


def measure(model: str, batch: int, size: int, placement: Placement = CPU) -> int:
    """Bytes at the peak of torch's CPU allocator, from the building of the network to the end of the second step."""
    from torch.profiler import ProfilerActivity, profile

    spec, shape = spec_of(model, batch), shape_of(size)
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        _steps(spec, shape, placement)
    assert profiled.profiler is not None
    events = profiled.profiler.kineto_results.events()
    held = peak = 0
    for event in sorted((item for item in events if item.name() == "[memory]"), key=lambda item: item.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return int(peak)


def _steps(spec: RunSpec, shape: DataShape, placement: Placement) -> None:
    channels = (0.5,) * shape.channels
    learner = build_learner(spec, shape, (channels, channels), placement)
    at_once = evaluation_batch(spec.batch_size, shape)

    def images(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels = torch.zeros(number, shape.channels, shape.height, shape.width, dtype=torch.uint8)
        return pixels, torch.zeros(number, dtype=torch.int64)

    pixels, labels = images(at_once)
    forward(learner.model.eval(), learner.prepare(pixels), labels, placement)
    del pixels, labels
    learner.model.train()
    gradients = Gradients(0, learner.model)
    for number in range(2):
        learner.compute_gradients(images(spec.batch_size), 1, number)
        gradients.around(learner.optimizer.step, number)


def cases(models: Iterable[str]) -> Iterable[tuple[str, int, int, Forecast, float]]:
    """Every case under the limit, with its forecast and the seconds that it took."""
    for model in models:
        for size in SIZES:
            for batch in BATCHES:
                shape = shape_of(size)
                if misfit(find_model(model), shape):
                    continue
                began = time.perf_counter()
                found = forecast(spec_of(model, batch), shape, 0, CPU, Calibration())
                if found.peak_bytes < LIMIT:
                    yield model, batch, size, found, time.perf_counter() - began


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks forecast")
    parser.add_argument("models", nargs="*", default=[info.name for info in MODELS])
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "BATCH", "SIZE"))
    parser.add_argument("--under-gib", type=float, default=12.0)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], int(chosen.one[1]), int(chosen.one[2]))))
        return
    errors, seconds = [], []
    print(f"forecast against the CPU allocator's measured peak, MiB  ({cpu_name()}, torch {torch.__version__})")
    print(f"{'model':<16} {'batch':>5} {'size':>5} {'forecast':>9} {'measured':>9} {'error':>8} {'took':>7}  during")
    for model, batch, size, found, took in cases(chosen.models):
        if found.peak_bytes > chosen.under_gib * 2**30:
            continue
        command = [sys.executable, "-m", "tests.benchmarks", "forecast", "--one", model, str(batch), str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak = json.loads(done.stdout.splitlines()[-1])
        errors.append(found.peak_bytes / peak - 1)
        seconds.append(took)
        print(
            f"{model:<16} {batch:>5} {size:>5} {found.peak_bytes / 2**20:>9.1f} {peak / 2**20:>9.1f} "
            f"{100 * errors[-1]:>+7.2f}% {took:>6.2f}s  {found.during}",
            flush=True,
        )
    absolute = sorted(map(abs, errors))
    print(
        f"{len(errors)} cases: median error {100 * statistics.median(absolute):.2f} %, worst {100 * absolute[-1]:.2f} %"
    )
    print(f"a forecast took {statistics.median(seconds):.2f} s in the median, {max(seconds):.2f} s at most")
