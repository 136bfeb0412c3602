"""The driver's end of the line to a run's workers, and the thread in which their work is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.errors import ClusterError
from engine.events import Event
from engine.launch.ray.channel import EventChannel, ResumePoint
from engine.launch.requests import ControlRequest
from engine.log import write_report
from engine.training.loop import Ending

_LISTEN_S = 0.1
_GRACE_S = 30.0  # for the last events, once Ray says that all is over

# By the cluster's address and the job in it; kept, for an actor ends when nobody refers to it any more.
_event_channels: dict[tuple[str, str], Any] = {}
_making = threading.Lock()


def _event_channel() -> Any:
    """The one of this driver, on the head's node."""
    context = ray.get_runtime_context()
    job = (str(context.gcs_address), str(context.get_job_id()))
    with _making:
        if job not in _event_channels:
            head = NodeAffinitySchedulingStrategy(head_node(), soft=False)
            made = ray.remote(EventChannel).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=head)
            _event_channels.clear()
            _event_channels[job] = made.remote()
        return _event_channels[job]


class Line:
    """The driver's end of the line to one run's workers.

    Raises:
        ClusterError: from any method, where the cluster's head is gone or takes nothing.
    """

    def __init__(self, run: int, newest: ResumePoint) -> None:
        self.channel = _event_channel()
        self._run, self._asked = run, ControlRequest()
        try:
            ray.get(self.channel.open.remote(run, newest))
        except RayError as error:
            raise ClusterError(
                f"the cluster's head takes no work from here ({type(error).__name__}); one begun without token "
                "authentication wants RAY_AUTH_MODE=disabled here, too, or to be begun anew where ~/.ray/auth_token is"
            ) from error

    def take(self) -> list[Event | Ending]:
        """What they have told; waits a moment for it."""
        found: list[Event | Ending] = self._done(self.channel.take.remote(self._run, _LISTEN_S))
        return found

    def ask(self, asked: ControlRequest) -> None:
        if asked != self._asked:
            self._done(self.channel.ask.remote(self._run, asked))
            self._asked = asked

    def close(self) -> None:
        self._done(self.channel.close.remote(self._run))

    def _done(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayError as error:
            raise ClusterError(
                f"the cluster's head no longer answers ({type(error).__name__}); once it is back, "
                f"reslab resume {self._run} continues from the newest checkpoint"
            ) from error


class Fit:
    """The workers' work, waited for in a thread. `gave_up`: it returned False, being asked to stop before it began."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self.gave_up = False

        def fit() -> None:
            try:
                self.gave_up = work() is False
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=fit, name="ray", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(_GRACE_S)

    def failure(self, log: Path) -> ClusterError:
        """Why it failed, in a sentence; the whole of it goes to the file `log`."""
        if isinstance(self._error, ClusterError):
            return self._error
        written = self._error is not None and write_report(log, self._error, "the workers of a run on Ray failed")
        said = str(self._error or "the workers ended without a word").strip().splitlines()
        where = f"; the full report is in {log}" if written else ""
        return ClusterError(f"the workers on Ray failed: {said[-1] if said else type(self._error).__name__}{where}")


def head_node() -> str:
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("node:__internal_head__"):
            return str(node["NodeID"])
    raise ClusterError("the Ray cluster has no head node that is alive")
