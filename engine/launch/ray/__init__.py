"""Runs on Ray: one or several workers per run, on this machine or on a cluster. Ray is imported when it is used."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from engine.errors import ClusterError

_TOKEN = ".ray/auth_token"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where a run's workers are. `address` is that of a running cluster; None starts Ray on this machine."""

    address: str | None = None
    num_workers: int = 1
    sync_batchnorm: bool = False

    @property
    def words(self) -> str:
        """Where runs train, as text for the screen."""
        where = f"on Ray at {self.address}" if self.address else "on Ray, on this machine"
        each = "runs side by side, as memory allows" if self.side_by_side else f"{self.num_workers} workers per run"
        return f"{where}: {each}"

    @property
    def side_by_side(self) -> bool:
        """Whether several runs train at once; runs with several workers come one after another."""
        return self.num_workers == 1


def require_ray() -> None:
    """Call before importing Ray: turns its usage statistics off, and makes its workers use this environment.

    Raises:
        ClusterError: Ray is not installed.
    """
    if find_spec("ray") is None:
        raise ClusterError(
            "runs on Ray need the package ray, which is not installed; use uv run --extra cluster reslab …"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")  # else a call after shutdown would start Ray again
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    # Ray notices a lost node late; until then it waits this long for room on it.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns that it will change
    if _has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's default, but not if it is given an address


def _has_token() -> bool:
    """Whether there is an authentication token in one of the three locations where Ray looks for it."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path(named) if named else Path.home() / _TOKEN).is_file()


def find_cluster(text: str, num_workers: int = 1, sync_batchnorm: bool = False) -> Cluster:
    """What `--on` names: `ray` for this machine, `ray:ADDRESS` for a running cluster.

    Raises:
        ClusterError: it names neither, the number of workers is not valid, or Ray is not installed.
    """
    engine, colon, address = text.partition(":")
    if engine != "ray" or (colon and not address):
        raise ClusterError(f"--on {text} is not valid; expected ray, or ray:ADDRESS such as ray:10.0.0.5:6379")
    if num_workers < 1:
        raise ClusterError(f"--num-workers {num_workers} is not valid; expected a whole number from 1 upwards")
    if sync_batchnorm and num_workers == 1:
        raise ClusterError("--sync-batchnorm is for several workers of one run; add --num-workers, or leave it out")
    require_ray()
    return Cluster(address or None, num_workers, sync_batchnorm)


def versions_differ(mine: dict[str, str], there: dict[str, str]) -> str | None:
    """A sentence if the versions of two nodes differ; else None."""
    for name, version in mine.items():
        if there.get(name) != version:
            return (
                f"the nodes do not have the same versions: {name} {there.get(name)} and {version}; install the same "
                "reslab on all of them"
            )
    return None
