"""`weights = run:12`: the weights file of that run, found where the home folder is known, before a run is recorded.

From then on the spec has the file's path, so that it means the same in every process, and when the run is resumed.
"""

from __future__ import annotations

from pathlib import Path

from engine.errors import CheckpointError, ModelError
from engine.paths import Folders, names_run, run_of
from engine.spec import RunSpec
from engine.store.store import Store
from engine.training.checkpoint import verify_checkpoint


def with_run_weights(spec: RunSpec, folders: Folders) -> RunSpec:
    """`spec` with the path of the weights if it names a run.

    Raises:
        StoreError: there is no such run.
        ModelError: it is still running, or its weights are gone or damaged.
    """
    number = run_of(spec.weights) if names_run(spec.weights) else None
    return spec if number is None else spec.replace(weights=str(_weights_of(number, folders)))


def _weights_of(run: int, folders: Folders) -> Path:
    with Store(folders.database) as store:
        store.settle_lost_runs()
        details = store.details(run)
    if details.record.status == "running":
        raise ModelError(f"run {run} is still running and its weights change; wait for its end, or stop it")
    if details.weights is None:
        raise ModelError(f"run {run} has no weights: it ended before any were saved; choose another run")
    path = folders.run_folder(run) / details.weights.file
    try:
        verify_checkpoint(path, details.weights.sha256)
    except (CheckpointError, OSError) as error:
        raise ModelError(f"the weights of run {run} cannot be used: {error}; choose another run") from None
    return path
