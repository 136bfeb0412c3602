"""The driver's mailbox for a run's workers, and the thread that waits for their work."""

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
_GRACE_S = 30.0  # for the last events, once Ray reports the end

# By cluster address and Ray job. Kept here because an actor ends with its last reference.
_event_channels: dict[tuple[str, str], Any] = {}
_creating = threading.Lock()


def _event_channel() -> Any:
    """This driver's event channel, on the head node."""
    context = ray.get_runtime_context()
    job = (str(context.gcs_address), str(context.get_job_id()))
    with _creating:
        if job not in _event_channels:
            head = NodeAffinitySchedulingStrategy(head_node(), soft=False)
            actor = ray.remote(EventChannel).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=head)
            _event_channels.clear()
            _event_channels[job] = actor.remote()
        return _event_channels[job]


class Mailbox:
    """The driver's side of one run's event channel.

    Raises:
        ClusterError: from any method, if the cluster's head is gone or rejects the call.
    """

    def __init__(self, run: int, newest: ResumePoint) -> None:
        self.channel = _event_channel()
        self._run, self._last_request = run, ControlRequest()
        try:
            ray.get(self.channel.open.remote(run, newest))
        except RayError as error:
            raise ClusterError(
                f"the cluster's head rejects work from here ({type(error).__name__}); if it was started without token "
                "authentication, set RAY_AUTH_MODE=disabled here too, or restart it with ~/.ray/auth_token in place"
            ) from error

    def take(self) -> list[Event | Ending]:
        """Events that the workers have sent since the last call; waits up to 0.1 s for one."""
        found: list[Event | Ending] = self._result(self.channel.take.remote(self._run, _LISTEN_S))
        return found

    def send_request(self, request: ControlRequest) -> None:
        if request != self._last_request:
            self._result(self.channel.send_request.remote(self._run, request))
            self._last_request = request

    def close(self) -> None:
        self._result(self.channel.close.remote(self._run))

    def _result(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayError as error:
            raise ClusterError(
                f"the cluster's head no longer answers ({type(error).__name__}); once it is back, "
                f"reslab resume {self._run} continues from the newest checkpoint"
            ) from error


class WorkerThread:
    """Waits for the workers' work. `stopped_early`: the work returned False, stopped before it had a worker."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None
        self.stopped_early = False

        def wait_for_work() -> None:
            try:
                self.stopped_early = work() is False
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=wait_for_work, name="ray", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(_GRACE_S)

    def failure(self, log: Path) -> ClusterError:
        """Why it failed, in a sentence; the full report goes to the file `log`."""
        if isinstance(self._error, ClusterError):
            return self._error
        written = self._error is not None and write_report(log, self._error, "the workers of a run on Ray failed")
        lines = str(self._error or "the workers ended without a message").strip().splitlines()
        where = f"; the full report is in {log}" if written else ""
        return ClusterError(f"the workers on Ray failed: {lines[-1] if lines else type(self._error).__name__}{where}")


def head_node() -> str:
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("node:__internal_head__"):
            return str(node["NodeID"])
    raise ClusterError("the Ray cluster has no head node that is alive")
