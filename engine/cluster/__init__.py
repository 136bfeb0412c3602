"""Runs on Ray: many workers for one run, on this machine or on a cluster. Ray is not imported before it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

from engine.errors import ClusterError


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a run's workers are. `address` is a running cluster's, None starts Ray on this machine for the one run."""

    address: str | None = None
    num_workers: int = 1
    sync_batchnorm: bool = False


def require_ray() -> None:
    """To be called before Ray is imported: no statistics are sent, and its workers use this very environment.

    Raises:
        ClusterError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise ClusterError("runs on a cluster need Ray, which is not installed; install reslab's extra cluster")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will change
