"""Detached runs: in a process and session of their own, so that signals to the terminal do not reach them.

Such a process reports on its standard output which runs it has started, or why it could not; everything else is in the
runs' event streams. Loads no torch in the calling process.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from engine.control import RunControl
from engine.errors import ReslabError
from engine.events import Event, RunEnded, RunStarted
from engine.failures import describe_failure
from engine.launch.backend import Backend, Capacity, Handle, Job, Limit, Slot
from engine.launch.follow import follow
from engine.launch.ray import Cluster
from engine.launch.stream import Stream
from engine.log import log_to
from engine.memory.heap import keep_one_heap
from engine.paths import Folders
from engine.records import TERMINATED
from engine.spec import RunSpec

_LISTEN_S = 0.1
_STOP_EVERY_S = 2.0
_STOPPED = 3  # exit code


@dataclass(frozen=True, slots=True)
class Order:
    """What a detached process runs: one job, several one after another or side by side, or, without any, the stored
    queue. On `cluster`; None: on this machine.
    """

    folders: Folders
    jobs: tuple[Job, ...] = ()
    cluster: Cluster | None = None

    def to_json(self) -> str:
        values_of = {name: str(getattr(self.folders, name)) for name in ("home", "data", "cache")}
        jobs = [{"spec": job.spec.to_dict(), "resume": job.resume, "dataset": job.dataset} for job in self.jobs]
        cluster = None if self.cluster is None else asdict(self.cluster)
        return json.dumps({"folders": values_of, "jobs": jobs, "cluster": cluster})

    @classmethod
    def from_json(cls, text: str) -> Order:
        values = json.loads(text)
        folders = Folders(**{name: Path(path) for name, path in values["folders"].items()})
        jobs = tuple(Job(RunSpec.from_mapping(job["spec"]), job["resume"], job["dataset"]) for job in values["jobs"])
        cluster = None if values["cluster"] is None else Cluster(**values["cluster"])
        return cls(folders, jobs, cluster)


class Detached:
    """Each run in a process of its own, which trains on `cluster`; None: on this machine."""

    survives = True

    def __init__(self, folders: Folders, cluster: Cluster | None = None) -> None:
        self._folders, self._cluster = folders, cluster

    def start(self, job: Job, control: RunControl | None = None, slot: Slot | None = None) -> Handle:
        def events(control: RunControl) -> Generator[Event, None, None]:
            run = DetachedProcess(self.order(job)).first(control)
            if run is not None:
                yield from follow(run, self._folders, control, just_started=True)

        return Handle(events, control or RunControl())

    def order(self, *jobs: Job) -> Order:
        return Order(self._folders, jobs, self._cluster)


class DetachedProcess:
    """The process of an order, as seen by its parent. The runs do not depend on it."""

    def __init__(self, order: Order) -> None:
        self._log, self._stopped = order.folders.log, False
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "engine.launch.detached"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # it died at once: `runs` reports it
            pipe.write(order.to_json())

    def first(self, control: RunControl) -> int | None:
        """The number of its first run; None if `control` was left or stopped before there was one.

        Raises:
            ReslabError: as `runs`.
        """
        assert self._process.stdout is not None
        stopped_at = 0.0
        try:
            while not select.select([self._process.stdout], [], [], _LISTEN_S)[0]:
                if control.left:
                    return None
                if control.stop_requested and time.monotonic() - stopped_at > _STOP_EVERY_S:
                    stopped_at = time.monotonic()
                    self.stop()
        except BaseException:  # interrupted
            self.stop()
            raise
        return next(self.runs(least=0 if control.stop_requested else 1), None)

    def runs(self, least: int = 1) -> Iterator[int]:
        """The number of each of its runs as it starts, at least `least` of them.

        Raises:
            ReslabError: why they could not be started.
        """
        assert self._process.stdout is not None
        answered = False
        with self._process.stdout as pipe:
            for line in pipe:
                answered, answer = True, json.loads(line)
                if "error" in answer:
                    self._process.wait()
                    raise ReslabError(answer["error"])
                yield int(answer["run"])
        code = self._process.wait()
        if not answered and least:
            raise ReslabError(f"the run's process ended at once; {self._log} may say why")
        if code and not self._stopped:
            reason = "was stopped" if code == _STOPPED else f"was lost (exit code {code}); {self._log} may say why"
            raise ReslabError(f"the process of the runs {reason}; runs that had not started are still waiting")

    def stop(self) -> None:
        """Ask for a clean end of all its runs; it starts no more."""
        self._stopped = True
        self._process.send_signal(signal.SIGINT)


def main() -> int:
    """Execute the order on standard input."""
    order = Order.from_json(sys.stdin.read())
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    log_to(order.folders.log)
    keep_one_heap()
    control = RunControl()

    def stop(number: int, frame: FrameType | None) -> None:
        control.stop(TERMINATED if number == signal.SIGTERM else None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with closing(_events(order, control)) as events:
            _publish(events, order, lambda run: _report(report, {"run": run}))
    except ReslabError as error:
        _report(report, {"error": str(error)})
    except Exception as error:
        _report(report, {"error": describe_failure(error, order.folders, "a detached run failed")})
        return 1
    return _STOPPED if control.stop_requested else 0


def _events(order: Order, control: RunControl) -> Generator[Event, None, None]:
    backend, capacity = _backend_of(order)
    if len(order.jobs) == 1:
        return backend.start(order.jobs[0], control).events()
    from engine.launch.scheduler import ListSource, Scheduler, StoredQueue

    source = ListSource([job.spec for job in order.jobs]) if order.jobs else StoredQueue(order.folders)
    return Scheduler(source, backend, capacity, order.folders).events(control)


def _backend_of(order: Order) -> tuple[Backend, Capacity]:
    if order.cluster is None:
        from engine.launch.in_process import InProcess

        return InProcess(order.folders), Limit()
    from engine.launch.ray import require_ray

    require_ray()
    from engine.launch.ray.backend import RayBackend, capacity_of

    return RayBackend(order.folders, order.cluster), capacity_of(order.cluster, order.folders)


def _publish(events: Iterator[Event], order: Order, started: Callable[[int], None]) -> None:
    """Write every run's stream; calls `started` with each run once it can be followed."""
    resumes = len(order.jobs) == 1 and order.jobs[0].resume is not None
    streams: dict[int, Stream] = {}
    try:
        for event in events:
            stream = streams.get(event.run)
            if stream is None:
                if resumes and not isinstance(event, RunStarted):  # its row still has its earlier end
                    continue
                stream = streams[event.run] = Stream(order.folders.run_folder(event.run))
                stream.write(event)
                started(event.run)
            else:
                stream.write(event)
            if isinstance(event, RunEnded):
                streams.pop(event.run).close()
    finally:
        for stream in streams.values():
            stream.close()


def _report(report: Any, answer: dict[str, Any]) -> None:
    """To the parent process, if it still listens."""
    with suppress(OSError, ValueError):
        report.write(json.dumps(answer) + "\n")
        report.flush()


if __name__ == "__main__":
    sys.exit(main())
