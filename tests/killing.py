"""A run in a process of its own that is killed (SIGKILL) once it has a checkpoint, in the middle of the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from engine.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parent.parent


def kill_in_mid_run(spec: RunSpec, folders: Folders, tmp_path: Path) -> int:
    """Returns the run's number. One thread, as `one_thread` has it."""
    file = tmp_path / "killed.toml"
    file.write_text(spec.to_toml())
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "tui", "train", "--spec", str(file), "--json", "--home", str(folders.home)]
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    assert process.stderr is not None
    saved = None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "checkpoint_saved":
            saved = event
            process.kill()
            break
    rest = process.stderr.read()
    process.wait()
    process.stdout.close()
    process.stderr.close()
    assert saved is not None, rest
    run = int(saved["run"])
    lab = Lab(folders)
    assert saved["step"] > 0
    assert lab.summary(run).status == "failed"  # interrupted
    return run


def assert_same_run(folders: Folders, one: int, other: int) -> None:
    """Losses, evaluations, predictions and weights, to the last bit."""
    lab = Lab(folders)
    mine, theirs = lab.run(one), lab.run(other)
    assert mine.curve == theirs.curve
    assert [item.train_loss for item in mine.epochs] == [item.train_loss for item in theirs.epochs]
    assert [item.metrics for item in mine.evaluations] == [item.metrics for item in theirs.evaluations]
    with Store(folders.database) as store:
        assert store.predictions(one) == store.predictions(other)
    assert mine.weights is not None
    assert theirs.weights is not None
    states = [
        load_checkpoint(folders.run_folder(run) / weights.file, weights.sha256).model
        for run, weights in ((one, mine.weights), (other, theirs.weights))
    ]
    assert states[0].keys() == states[1].keys()
    assert all(states[0][name].equal(value) for name, value in states[1].items())


def killed_resumed_and_compared(spec: RunSpec, folders: Folders, tmp_path: Path) -> None:
    """Trained without a break; killed and resumed: the same run; compared and predicted with."""
    from PIL import Image

    lab = Lab(folders)
    ended = lab.train(spec).wait()
    assert ended is not None
    assert ended.status == "completed", ended.error
    killed = kill_in_mid_run(spec, folders, tmp_path)
    resumed = lab.resume(killed).wait()
    assert resumed is not None
    assert resumed.status == "completed", resumed.error
    assert lab.run(killed).resumes[0].step > 0
    assert_same_run(folders, killed, 1)
    (verdict,) = lab.compare([1, killed]).comparison.verdicts
    assert "no difference" in verdict.verdict
    Image.new("L", (8, 8), 255).save(tmp_path / "image.png")
    (one,) = lab.predict(1, [tmp_path / "image.png"])
    (other,) = lab.predict(killed, [tmp_path / "image.png"])
    assert one.guesses == other.guesses
    assert len(one.guesses) > 1
