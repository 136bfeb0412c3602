"""Runs on Ray: many workers for one run, on this machine or on a cluster. Ray is not imported before it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from engine.errors import ClusterError

_MISSING = "--on ray needs Ray, which is not installed; run it as: uv run --extra cluster reslab …"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a run's workers are. `address` is a running cluster's, None starts Ray on this machine for the one run."""

    address: str | None = None
    num_workers: int = 1
    sync_batchnorm: bool = False


def find_cluster(on: str, num_workers: int, sync_batchnorm: bool) -> Cluster:
    """Read `ray` or `ray:ADDRESS`.

    Raises:
        ClusterError: it is neither, or Ray is not installed.
    """
    engine, _, address = on.partition(":")
    if engine != "ray":
        raise ClusterError(f"--on {on}: expected ray, or ray:ADDRESS of a cluster that runs already, as ray:auto")
    if not 1 <= num_workers <= 4096:
        raise ClusterError(f"--num-workers {num_workers}: expected a whole number from 1 to 4,096")
    if find_spec("ray") is None:
        raise ClusterError(_MISSING)
    return Cluster(address or None, num_workers, sync_batchnorm)


def quiet_ray() -> None:
    """Before ray is imported: no statistics are sent, and its workers use this very environment."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
