"""The process that carries runs: started by whoever asks for them, in a session of its own, and left alone by signals
to the terminal. It says on its standard output which run it carries, or why it does not; from then on its runs tell.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from engine.control import RunControl
from engine.errors import ReslabError
from engine.events import Event, RunStarted
from engine.failures import describe_failure
from engine.launch.following import follow
from engine.launch.ray import Cluster, require_ray
from engine.launch.stream import Stream
from engine.log import log_to
from engine.memory.heap import keep_one_heap
from engine.paths import Places
from engine.records import TERMINATED
from engine.spec import RunSpec

_LISTEN_S = 0.1
_ASK_EVERY_S = 2.0
_STOPPED = 3  # exit code


@dataclass(frozen=True, slots=True)
class Job:
    """What to carry: a new run, or the going on of an old one; or, on a cluster, several side by side, or all that
    waits in the queue where none is given. `dataset` is where the images of the run to go on with lie now.
    """

    places: Places
    specs: tuple[RunSpec, ...] = ()
    resume: int | None = None
    cluster: Cluster | None = None
    dataset: str | None = None

    @property
    def is_one_run(self) -> bool:
        return self.resume is not None or len(self.specs) == 1

    def to_json(self) -> str:
        values = {name: str(getattr(self.places, name)) for name in ("home", "data", "cache")}
        specs = [spec.to_dict() for spec in self.specs]
        cluster = None if self.cluster is None else asdict(self.cluster)
        job = {"places": values, "specs": specs, "resume": self.resume, "cluster": cluster, "dataset": self.dataset}
        return json.dumps(job)

    @classmethod
    def from_json(cls, text: str) -> Job:
        values = json.loads(text)
        places = Places(**{name: Path(path) for name, path in values["places"].items()})
        specs = tuple(map(RunSpec.from_mapping, values["specs"]))
        cluster = None if values["cluster"] is None else Cluster(**values["cluster"])
        return cls(places, specs, values["resume"], cluster, values["dataset"])


class Carrier:
    """The process of a job, from the side of whoever started it. Closing changes nothing for the runs."""

    def __init__(self, job: Job) -> None:
        self._log, self._stopped = job.places.log, False
        root = str(Path(__file__).resolve().parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "engine.launch.detached"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )  # fmt: skip
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # it died at once: `runs` says so
            pipe.write(job.to_json())

    def first(self, control: RunControl) -> int | None:
        """The number of its first run; None where `control` was left or stopped before there was any.

        Raises:
            ReslabError: as `runs`.
        """
        assert self._process.stdout is not None
        told = 0.0
        try:
            while not select.select([self._process.stdout], [], [], _LISTEN_S)[0]:
                if control.left:
                    return None
                if control.stop_requested and time.monotonic() - told > _ASK_EVERY_S:
                    told = time.monotonic()
                    self.stop()
        except BaseException:  # broken off
            self.stop()
            raise
        return next(self.runs(least=0 if control.stop_requested else 1), None)

    def runs(self, least: int = 1) -> Iterator[int]:
        """The number of each of its runs as it begins, to the last; there may be as few as `least`.

        Raises:
            ReslabError: what kept them from being begun.
        """
        assert self._process.stdout is not None
        said = False
        with self._process.stdout as pipe:
            for line in pipe:
                said, answer = True, json.loads(line)
                if "error" in answer:
                    self._process.wait()
                    raise ReslabError(answer["error"])
                yield int(answer["run"])
        code = self._process.wait()
        if not said and least:
            raise ReslabError(f"the process that was to carry the run ended at once; {self._log} may say why")
        if code and not self._stopped:
            said_by = (
                "was asked to stop" if code == _STOPPED else f"was lost (exit code {code}); {self._log} may say why"
            )
            raise ReslabError(f"the process that carried the runs {said_by}; what waited for its turn still does")

    def stop(self) -> None:
        """Ask for a clean end of all its runs, and begin no more."""
        self._stopped = True
        self._process.send_signal(signal.SIGINT)


def carried(job: Job, control: RunControl) -> Generator[Event, None, None]:
    """Have a job's one run carried by a process of its own, and follow it.

    Raises:
        ReslabError: what kept it from being begun.
    """
    run = Carrier(job).first(control)
    if run is not None:
        yield from follow(run, job.places, control, begun=True)


def main() -> int:
    """Carry the job that stands on standard input."""
    job = Job.from_json(sys.stdin.read())
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    log_to(job.places.log)
    keep_one_heap()
    control = RunControl()

    def stop(number: int, frame: FrameType | None) -> None:
        control.stop(TERMINATED if number == signal.SIGTERM else None)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        if job.is_one_run:
            _carry(job, control, report)
        else:
            _carry_side_by_side(job, control, report)
    except ReslabError as error:
        _say(report, {"error": str(error)})
    except Exception as error:
        _say(report, {"error": describe_failure(error, job.places, "a run could not be carried")})
        return 1
    return _STOPPED if control.stop_requested else 0


def _carry(job: Job, control: RunControl, report: Any) -> None:
    from engine.launch.in_process import Lab, resume, run

    lab = Lab(job.places, cluster=job.cluster)
    again = job.resume
    events = run(job.specs[0], lab, control) if again is None else resume(again, lab, control, job.dataset)
    stream = None
    with closing(events):
        try:
            for event in events:
                if stream is None and (job.resume is None or isinstance(event, RunStarted)):  # before that it runs not
                    stream = Stream(job.places.run_folder(event.run))
                    stream.tell(event)
                    _say(report, {"run": event.run})
                elif stream is not None:
                    stream.tell(event)
        finally:
            if stream is not None:
                stream.close()


def _carry_side_by_side(job: Job, control: RunControl, report: Any) -> None:
    require_ray()
    from engine.launch.ray.queue import Given, Recorded, Scheduler

    assert job.cluster is not None
    source = Given(job.specs) if job.specs else Recorded(job.places)
    Scheduler(source, job.places, job.cluster, control, lambda run: _say(report, {"run": run})).carry()


def _say(report: Any, answer: dict[str, Any]) -> None:
    """Tell whoever started this process, if they still listen."""
    with suppress(OSError, ValueError):
        report.write(json.dumps(answer) + "\n")
        report.flush()


if __name__ == "__main__":
    sys.exit(main())
