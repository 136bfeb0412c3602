"""The forecast against the peak that torch's CPU allocator really reached, model by model, batch by batch.

torch's profiler reports every allocation of its CPU allocator, workspaces of convolutions included. Each case is a
process of its own: an evaluation batch and two training steps on random pixels.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from itertools import product

import torch

from engine.catalog.models import MODELS, find_model, misfit
from engine.device import Placement, cpu_name
from engine.forecast.step_memory import Step, forecast
from engine.forecast.timeline import Forecast
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.forward import evaluation_batch, forward
from engine.step.gradients import Gradients
from engine.step.learner import build_learner

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
    at_once = evaluation_batch(spec.batch_size, shape.height, shape.width)

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


def cases(models: Sequence[str], limit: float) -> Iterator[tuple[str, int, int, Forecast, float]]:
    """Every case under the limit of bytes, small images first, with its forecast and the seconds that it took."""
    for size, model, batch in product(SIZES, models, BATCHES):
        shape = shape_of(size)
        if misfit(find_model(model), shape):
            continue
        began = time.perf_counter()
        found = forecast(Step(spec_of(model, batch), shape, CPU))
        if found.peak_bytes <= limit:
            yield model, batch, size, found, time.perf_counter() - began


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks forecast")
    parser.add_argument("models", nargs="*", default=[info.name for info in MODELS])
    parser.add_argument("--under-gib", type=float, default=LIMIT / 2**30)
    chosen = parser.parse_args(arguments)
    errors: list[tuple[int, float]] = []
    seconds = []
    print(f"forecast against the CPU allocator's measured peak, MiB  ({cpu_name()}, torch {torch.__version__})")
    print(f"{'model':<16} {'batch':>5} {'size':>5} {'forecast':>9} {'measured':>9} {'error':>8} {'took':>7}  during")
    # A server that has loaded torch and used nothing of it is forked for each case: 5 s less than starting anew.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.benchmarks.forecasting"])
    with processes.Pool(1, maxtasksperchild=1) as pool:
        for model, batch, size, found, took in cases(chosen.models, chosen.under_gib * 2**30):
            peak = pool.apply(measure, (model, batch, size))
            errors.append((size, found.peak_bytes / peak - 1))
            seconds.append(took)
            print(
                f"{model:<16} {batch:>5} {size:>5} {found.peak_bytes / 2**20:>9.1f} {peak / 2**20:>9.1f} "
                f"{100 * errors[-1][1]:>+7.2f}% {took:>6.2f}s  {found.during}",
                flush=True,
            )
    for size in SIZES:
        _summarize(f"{size}×{size}", [error for of, error in errors if of == size])
    _summarize("all", [error for _, error in errors])
    print(f"a forecast took {statistics.median(seconds):.2f} s in the median, {max(seconds):.2f} s at most")


def _summarize(name: str, errors: Sequence[float]) -> None:
    if errors:
        absolute = [100 * abs(error) for error in errors]
        figures = f"median error {statistics.median(absolute):.2f} %, worst {max(absolute):.2f} %"
        print(f"{name}: {len(errors)} cases, {figures}")
