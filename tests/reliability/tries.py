"""What a fault's tries come to, and processes to try them on.

A try needs a process of its own, with torch: a server that has imported everything, and used nothing of it, is forked
for each, which takes a hundredth of the time of a start.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import torch

from engine.events import StepsCompleted
from engine.paths import Folders
from engine.records import Curve, Predictions, RunDetails
from engine.spec import RunSpec
from engine.store.store import Store
from engine.training.checkpoint import Checkpoint, load_checkpoint
from tests.waiting import WITHIN_S

SPEC = RunSpec("digits", "resnet20", epochs=4, dtype="float32", checkpoint_every=1)
ONE_EPOCH = SPEC.replace(epochs=1)


@dataclass(slots=True)
class Outcome:
    """`losses` has a sentence for each try in which something did not hold."""

    tries: int = 0
    losses: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, problems: list[str]) -> None:
        self.tries += 1
        self.losses += problems


def folders_in(folder: Path) -> Folders:
    return Folders(folder / "home", folder / "data", folder / "cache")


def start(work: Callable[..., object], *arguments: Any) -> ForkServerProcess:
    """`work` in a process of its own; it and its arguments are pickled, so it stands at the top of a module."""
    shim = failing_calls()
    if shim is not None:
        os.environ["LD_PRELOAD"] = str(shim)  # the server inherits it when it is started, at the first call
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.reliability.children"])
    process = processes.Process(target=work, args=arguments)
    process.start()
    os.environ.pop("LD_PRELOAD", None)
    return process


@cache
def failing_calls() -> Path | None:
    """failing_calls.c, built; None where there is no C compiler, or no Linux."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        return None
    built = Path(tempfile.mkdtemp(prefix="reslab-")) / "failing_calls.so"
    atexit.register(shutil.rmtree, built.parent, ignore_errors=True)
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run((compiler, "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"), check=True)
    return built


def finish(process: ForkServerProcess, within_s: float = WITHIN_S) -> int | None:
    """Wait for its end; the exit code, None where it did not come to one and was killed."""
    process.join(within_s)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    return process.exitcode


@dataclass(frozen=True, slots=True)
class Story:
    """All that a finished run comes down to."""

    checkpoint: Checkpoint
    curve: Curve
    metrics: list[Any]
    predictions: Predictions


def story_of(folders: Folders, number: int = 1) -> Story:
    with Store(folders.database) as store:
        details = store.details(number)
        return Story(
            resume_point_of(folders, details),
            details.curve,
            [(item.split, item.moment, item.step, item.metrics) for item in details.evaluations],
            store.predictions(number),
        )


def resume_point_of(folders: Folders, details: RunDetails) -> Checkpoint:
    assert details.weights is not None
    return load_checkpoint(folders.run_folder(details.record.run) / details.weights.file, details.weights.sha256)


def differences(one: Story, other: Story) -> list[str]:
    """What is not the same to the last bit, in words."""
    found = [
        f"weights {name} differ"
        for name, value in one.checkpoint.model.items()
        if not value.equal(other.checkpoint.model[name])
    ]
    found += [
        f"optimizer state {index} differs"
        for index, state in one.checkpoint.optimizer.items()
        if any(not value.equal(other.checkpoint.optimizer[index][name]) for name, value in state.items())
    ]
    for name in ("curve", "metrics", "predictions"):
        if getattr(one, name) != getattr(other, name):
            found.append(f"{name} differ")
    return found[:3]


def check_cut_off(folders: Folders) -> list[str]:
    """What does not hold of a home folder whose one run was cut off without a word."""
    problems = []
    with closing(sqlite3.connect(folders.database)) as db:
        (said,) = db.execute("PRAGMA integrity_check").fetchone()
    if said != "ok":
        problems.append(f"integrity_check: {said}")
    with Store(folders.database) as store:
        store.settle_lost_runs()
        details = store.details(1)
        past = [event for event in store.past(1) if isinstance(event, StepsCompleted)]
    if details.record.status == "running":
        problems.append("the run is still said to be running")
    kept_s = 0.0
    if details.weights is not None:
        kept_s = float(resume_point_of(folders, details).header["train_s"])
    # Beyond the interval: the write in hand when it struck.
    if past and past[-1].train_s - kept_s > SPEC.checkpoint_every + 1.0:
        problems.append(f"{past[-1].train_s - kept_s:.1f} s of training are lost")
    return problems


def check_resumed(folders: Folders, reference: Story) -> list[str]:
    """What does not hold once the run has gone on to its end."""
    problems = differences(reference, story_of(folders))
    with Store(folders.database) as store:
        if store.intact(1) is not True:
            problems.append("the seal does not hold")
        named = {weights.file for weights in store.checkpoints(1)}
    left = {path.name for path in folders.run_folder(1).glob("*step-*")} - named
    if left:
        problems.append(f"left lying: {', '.join(sorted(left))}")
    return problems


def quiet_process() -> None:
    """What every child does first: one thread, no measuring of settings, nothing said."""
    torch.set_num_threads(1)
    os.environ["RESLAB_TUNE"] = "0"
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # for the process's life
