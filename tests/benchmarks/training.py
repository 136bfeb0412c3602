"""Training speed against other ways to train: pairs of processes by turns, ratios, and their spread."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from tests.benchmarks.reporting import data_folder, report

_SIDE = ("-m", "tests.benchmarks.sides")
_EXTRA = {"lightning": "lightning", "fastai": "fastai"}
Workload = tuple[str, str, int, float]  # dataset, network, image size, seconds


def _run(side: str, workload: Workload, *options: str) -> dict[str, Any]:
    python: tuple[str, ...] = (sys.executable,)
    if side in _EXTRA and find_spec(_EXTRA[side]) is None:  # an environment of its own, with the project's torch
        python = ("uv", "run", "--quiet", "--with", _EXTRA[side], "python")
    command = (*python, *_SIDE, side, *map(str, workload), *options)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _pairs(ours: Sequence[str], theirs: Sequence[str], workload: Workload, num_pairs: int) -> list[tuple[float, float]]:
    """Each pair one after the other, the order changing from pair to pair."""
    pairs = []
    for number in range(num_pairs):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        found = {side: _run(side[0], workload, *side[1:]) for side in map(tuple, order)}
        if "form" in found[tuple(ours)] and number == 0:
            print(f"  reslab computed in {found[tuple(ours)]['form']}")
        pairs.append((found[tuple(ours)]["images_per_s"], found[tuple(theirs)]["images_per_s"]))
    return pairs


def headless(num_pairs: int = 5) -> None:
    """The engine in float32 against the barest PyTorch loop on preloaded tensors, MNIST at 8×8."""
    for model in ("resnet18", "resnet20"):
        _by_turns(f"headless, {model} at 8×8", ("mnist", model, 8, 10.0 * num_pairs))
    pairs = _pairs(("reslab",), ("torch",), ("mnist", "resnet18", 8, 5.0), num_pairs)
    report("headless, resnet18 at 8×8", "images/s", pairs, ("reslab", "with torch's convolutions"))


def _by_turns(title: str, workload: Workload, *options: str) -> None:
    found = _run("turns", workload, *options)
    print(f"  reslab computed in {found['form']}")
    report(title, "images/s", [(ours, plain) for ours, plain in found["pairs"]], ("reslab", "bare loop"))


def auto(num_pairs: int = 5) -> None:
    """What `--dtype auto` chooses on this processor against the bare float32 loop."""
    for model, size in (("resnet18", 28), ("resnet18", 64), ("resnet20", 8), ("resnet18", 8)):
        workload = ("mnist", model, size, 10.0 * num_pairs)
        _by_turns(f"dtype auto, {model} at {size}×{size}", workload, "--dtype", "auto")


def libraries(num_pairs: int = 5) -> None:
    """The engine in float32 against Lightning, fastai and a DataLoader script on their usual paths, MNIST at 8×8."""
    for model in ("resnet18", "resnet20"):
        for side in ("script", "lightning", "fastai"):
            pairs = _pairs(("reslab",), (side,), ("mnist", model, 8, 4.0), num_pairs)
            report(f"{model} at 8×8 against {side}", "images/s", pairs, ("reslab", side))


def gpu(num_pairs: int = 5, seconds: str = "10") -> None:
    """On an NVIDIA GPU: against Lightning, a DataLoader script, a bare CUDA graph, synthetic data; `gpu 5 SECONDS`."""
    import torch

    if not torch.cuda.is_available():
        print("not measured: torch finds no NVIDIA GPU here")
        return
    print(torch.cuda.get_device_name(0))
    options = ("--device", "cuda", "--dtype", "bfloat16")
    for dataset, model, size, sides in (
        ("mnist", "resnet18", 28, ("lightning", "script", "graph")),
        ("cats-dogs", "resnet50", 224, ("synthetic",)),
    ):
        workload = (dataset, model, size, float(seconds))
        rounds = []
        for number in range(num_pairs):
            order = ("reslab", *sides) if number % 2 == 0 else (*sides, "reslab")
            rounds.append({side: _run(side, workload, *options)["images_per_s"] for side in order})
        for side in sides:
            pairs = [(found["reslab"], found[side]) for found in rounds]
            report(f"{model} at {size}×{size} against {side}", "images/s", pairs, ("reslab", side))
    for seed in range(num_pairs):
        ended = _trained("resnet20", 28, "--recipe", "fast", "--seed", str(seed))
        print(f"  resnet20 on MNIST by recipe fast, seed {seed}: {ended.train_s:.2f} s of training, "
              f"{ended.seconds:.1f} s in all, test accuracy {100 * ended.accuracy:.3f} %", flush=True)  # fmt: skip


def evaluating(num_pairs: int = 8) -> None:
    """Evaluation, figures from scikit-learn included, against a bare inference loop on preloaded tensors, by turns."""
    found = _run("evaluation", ("mnist", "resnet18", 8, 2.0 * num_pairs))
    pairs = [(ours, plain) for ours, plain in found["pairs"]]
    report("evaluation, resnet18 at 8×8", "images/s", pairs, ("reslab", "bare loop"))


def fast(num_seeds: int = 5) -> None:
    """Wall time of the report's ten epochs on MNIST at 8×8 against resnet20 by `--recipe fast`, five seeds.

    Each is a whole process, from its start to its exit code.
    """
    slow = _trained("resnet18", 8)
    said = f"{slow.seconds:.1f} s, test accuracy {100 * slow.accuracy:.3f} %"
    print(f"the report's recipe, resnet18, ten epochs: {said}", flush=True)
    found = [_trained("resnet20", 8, "--recipe", "fast", "--seed", str(seed)) for seed in range(num_seeds)]
    accuracies = ", ".join(f"{100 * run.accuracy:.3f}" for run in found)
    print(f"resnet20 by recipe fast, seeds 0 to {num_seeds - 1}: test accuracy {accuracies} %")
    pairs = [(run.seconds, slow.seconds) for run in found]
    report("wall time", "s", pairs, ("resnet20, recipe fast", "resnet18, the report's"))


@dataclass(frozen=True, slots=True)
class _Trained:
    """A whole `reslab train`: seconds of the process, of them in training steps, and the test accuracy at its end."""

    seconds: float
    train_s: float
    accuracy: float


def _trained(model: str, size: int, *options: str) -> _Trained:
    with tempfile.TemporaryDirectory() as home:
        folders = ("--home", home, "--data-dir", str(data_folder()))
        began = time.perf_counter()
        done = subprocess.run(
            (sys.executable, "-m", "tui", *folders, "train", "mnist", model, "--image-size", str(size), "--json",
             *options),
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - began
    events = [json.loads(line) for line in done.stdout.splitlines()]
    train_s = max(event["train_s"] for event in events if event["event"] == "steps_completed")
    return _Trained(seconds, train_s, float(events[-1]["final"]["accuracy"]))
