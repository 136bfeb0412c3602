"""Detached runs: their events through a file and back, what followers request, and how it all ends."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from engine import events
from engine.control import RunControl
from engine.errors import ReslabError, StoreError
from engine.events import Event, RunEnded, RunPaused, RunResumed, StepsCompleted, to_json_dict
from engine.launch import follow as following
from engine.launch.backend import Job
from engine.launch.detached import Detached, DetachedProcess, Order
from engine.launch.follow import follow
from engine.launch.requests import ControlRequest, send_request
from engine.launch.stream import Stream, stream_path
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests import waiting
from tests.fakes import DetachedRun, evaluated, events_of, metrics, started, without_bytes
from tests.waiting import join

SPEC = RunSpec("digits", "resnet20", epochs=3)


@pytest.fixture
def run(folders: Folders) -> Iterator[DetachedRun]:
    with closing(DetachedRun(SPEC, folders)) as made:
        yield made


@contextmanager
def followed(run: int, folders: Folders, control: RunControl) -> Iterator[list[Event]]:
    """The events that a follower in another thread has received so far."""
    seen: list[Event] = []

    def work() -> None:
        for event in follow(run, folders, control):
            seen.append(event)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield seen
    finally:
        control.leave()
        join(thread)


def until(what: Callable[[], object]) -> None:
    assert waiting.until(what, every_s=0.01), "the condition was never met"


def test_two_followers_get_every_event_whenever_they_start(run: DetachedRun, folders: Folders) -> None:
    sent = events_of(SPEC, run.run)
    run.emit(*sent[:4])
    with followed(run.run, folders, RunControl()) as first:
        until(lambda: len(first) == 4)
        run.emit(*sent[4:7])
        with followed(run.run, folders, RunControl()) as second:
            until(lambda: len(first) == len(second) == 7)
            run.emit(*sent[7:])
            run.stream.close()
            until(lambda: len(first) == len(second) == len(sent))
    assert first == second == list(map(without_bytes, sent))
    assert list(run.folder.iterdir()) == []


def test_a_half_written_line_waits_for_its_other_half(
    run: DetachedRun, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    read = following.read_new
    monkeypatch.setattr(following, "read_new", lambda file: looks.append(1) or read(file))  # type: ignore[func-returns-value]
    line = json.dumps(to_json_dict(RunPaused(run.run, 3))) + "\n"
    with followed(run.run, folders, RunControl()) as seen:
        for part in (line[:10], line[10:]):
            looks.clear()
            until(lambda: len(looks) > 1)
            assert seen == []
            run.stream._file.write(part)
            run.stream._file.flush()
        until(lambda: seen == [RunPaused(run.run, 3)])


def test_a_followers_requests_reach_the_run(run: DetachedRun, folders: Folders) -> None:
    control = RunControl()
    with followed(run.run, folders, control):
        control.pause()
        until(lambda: run.control.pause_requested)
        control.resume()
        until(lambda: not run.control.pause_requested)
        assert not run.control.stop_requested
        control.stop("the power goes")
        until(lambda: run.control.stop_requested)
        assert run.control.stop_reason == "the power goes"


def test_a_follower_that_leaves_requests_nothing(run: DetachedRun, folders: Folders) -> None:
    with followed(run.run, folders, control := RunControl()):
        control.leave()
    assert [path.name for path in run.folder.iterdir()] == ["stream.jsonl"]  # and no request beside it


def test_a_run_paused_by_someone_else_resumes_with_the_first_request(run: DetachedRun, folders: Folders) -> None:
    run.emit(*events_of(SPEC, run.run)[:4], RunPaused(run.run, 6))
    run.control.pause()
    with followed(run.run, folders, control := RunControl()) as seen:
        until(lambda: len(seen) == 5)
        assert control.pause_requested
        assert run.control.pause_requested
        control.resume()
        until(lambda: not run.control.pause_requested)
        control.pause()  # at once, before the run has reported that it resumed
        until(lambda: run.control.pause_requested)
        run.emit(RunResumed(run.run, 6, 1.0))
        until(lambda: len(seen) == 6)
        assert control.pause_requested
        run.emit(RunPaused(run.run, 6))
        until(lambda: len(seen) == 7)
        assert control.pause_requested


def test_whoever_started_a_run_gets_an_end_that_came_first(run: DetachedRun, folders: Folders) -> None:
    run.emit(*events_of(SPEC, run.run))
    run.stream.close()
    (end,) = follow(run.run, folders, RunControl(), just_started=True)
    assert isinstance(end, RunEnded)
    assert (end.status, end.final) == ("completed", metrics(0.775))


def test_a_request_that_cannot_be_written_is_an_error(run: DetachedRun, folders: Folders) -> None:
    control = RunControl()
    followed_events = follow(run.run, folders, control)
    run.emit(RunPaused(run.run, 1))
    next(followed_events)
    (run.folder / f"asked.{os.getpid()}.part").mkdir()
    control.stop()
    with pytest.raises(StoreError, match="cannot be paused or stopped"):
        next(followed_events)


@pytest.mark.slow
def test_the_stream_of_a_killed_process_is_deleted_when_the_run_resumes(folders: Folders) -> None:
    from engine.lab import Lab
    from tests.running import run_until

    run_until(StepsCompleted, folders, SPEC)
    old = stream_path(folders.run_folder(1))
    old.write_text("{}\n")
    there = [old.exists() for event in Lab(folders).resume(1).events() if isinstance(event, events.RunContinued)]
    assert there == [False]


def test_newer_checkpoints_of_a_worker_elsewhere_are_kept(tmp_path: Path) -> None:
    from engine.training.checkpoint import remove_other_checkpoints

    names = [f"step-{step:08d}.safetensors" for step in (10, 20, 30)] + [".step-00000040.safetensors.part"]
    for name in names:
        (tmp_path / name).touch()
    remove_other_checkpoints(tmp_path, names[1:2], newer=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[1:])
    remove_other_checkpoints(tmp_path, names[1:2])
    assert [path.name for path in tmp_path.iterdir()] == names[1:2]


def started_in(folders: Folders, job: Job, control: RunControl | None = None) -> Generator[Event, None, None]:
    """The events of a run in a process of its own."""
    return Detached(folders).start(job, control).events()


@pytest.mark.slow
def test_leaving_before_the_run_has_started_returns(folders: Folders) -> None:
    control = RunControl()
    threading.Timer(0.3, control.leave).start()
    assert list(started_in(folders, Job(SPEC.replace(epochs=1)), control)) == []
    until(lambda: folders.database.is_file())
    with Store(folders.database) as store:
        until(lambda: store.runs() and store.runs()[0].status == "completed")


def test_invalid_requests_are_ignored(run: DetachedRun) -> None:
    for text in ("", "{", '{"pause": true, "fly": 1}', "[]"):
        (run.folder / "asked.json").write_text(text)
        run.requests.poll()
    assert not run.control.pause_requested
    send_request(run.folder, ControlRequest(pause=True))
    until(lambda: run.control.pause_requested)


def test_a_run_whose_stream_cannot_be_written_continues(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stream = Stream(tmp_path / "file" / "1")
    stream.write(RunPaused(1, 3))
    stream.close()


def test_a_follower_gets_the_end_of_a_killed_run(run: DetachedRun, folders: Folders) -> None:
    run.emit(*events_of(SPEC, run.run)[:4])
    with followed(run.run, folders, RunControl()) as seen:
        until(lambda: len(seen) == 4)
        run.store.close()  # as if its process had been killed
        until(lambda: len(seen) == 5)
    end = seen[-1]
    assert isinstance(end, RunEnded)
    assert end.status == "failed"
    assert end.error is not None
    assert end.untrained == metrics(0.1135)


def test_what_cannot_be_followed_is_one_sentence(folders: Folders) -> None:
    with pytest.raises(StoreError, match="there is no run 3"):
        next(follow(3, folders, RunControl()))
    with Store(folders.database) as store:
        number = store.create_run(SPEC)
        with pytest.raises(StoreError, match="belongs to the terminal"):
            next(follow(number, folders, RunControl()))
        for event in (started(SPEC, number), evaluated(number, 0, 0.1, "untrained")):
            store.record(event)
        store.record(RunEnded(number, "stopped", None, None, 1.0, None, 0))
    with pytest.raises(StoreError, match="run 1 is stopped; reslab show 1"):
        next(follow(number, folders, RunControl()))


@pytest.mark.slow
def test_a_detached_run_survives_the_loss_of_its_parent(folders: Folders) -> None:
    spec = SPEC.replace(epochs=400)
    number = next(DetachedProcess(Order(folders, (Job(spec),))).runs())  # nobody reads its output any more
    control, seen = RunControl(), list[Event]()
    for event in follow(number, folders, control):
        seen.append(event)
        if isinstance(event, StepsCompleted) and not any(isinstance(one, RunPaused) for one in seen):
            control.pause()
        elif isinstance(event, RunPaused):
            control.resume()
        elif isinstance(event, RunResumed):
            control.stop()
    end = seen[-1]
    assert isinstance(end, RunEnded)
    assert (end.status, end.error) == ("stopped", None)
    with Store(folders.database) as store:
        details = store.details(number)
    assert (details.record.status, details.intact) == ("stopped", True)
    until(lambda: not stream_path(folders.run_folder(number)).exists())


@pytest.mark.slow
def test_a_detached_process_resumes_a_run_and_handles_signals(folders: Folders) -> None:
    control = RunControl()
    for event in started_in(folders, Job(SPEC.replace(epochs=400)), control):
        if isinstance(event, StepsCompleted):
            control.stop()
    assert isinstance(event, RunEnded)
    end, number = event, event.run
    for event in started_in(folders, Job(SPEC, number)):
        if isinstance(event, events.RunContinued):
            assert event.step == end.steps
            with Store(folders.database) as store:
                (pid,) = store.query("SELECT pid FROM runs WHERE run = ?", number)[0]
            os.kill(pid, signal.SIGHUP)
            os.kill(pid, signal.SIGTERM)
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"
    assert event.error is not None


@pytest.mark.slow
def test_a_run_that_cannot_start_is_reported_by_its_process(folders: Folders) -> None:
    with pytest.raises(ReslabError, match=r"no weights file /nowhere\.pth"):
        next(started_in(folders, Job(SPEC.replace(weights="/nowhere.pth"))))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "was lost (exit code -9); "),
        pytest.param(signal.SIGTERM, "was stopped; ", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_ends_early_is_an_error(folders: Folders, number: int, says: str) -> None:
    """Else the app would start it again, and the queue would count as done."""
    process = DetachedProcess(Order(folders, (Job(SPEC.replace(epochs=1000)),)))
    runs = process.runs(least=0)
    assert next(runs) == 1
    process._process.send_signal(number)
    with pytest.raises(ReslabError, match=re.escape(says)) as caught:
        next(runs)
    assert "runs that had not started are still waiting" in str(caught.value)


@pytest.mark.slow
def test_a_requested_stop_is_not_an_error(folders: Folders) -> None:
    process = DetachedProcess(Order(folders, (Job(SPEC.replace(epochs=1000)),)))
    runs = process.runs()
    assert next(runs) == 1
    process.stop()
    assert list(runs) == []


def test_an_order_survives_the_round_trip(folders: Folders) -> None:
    from engine.launch.ray import Cluster

    for order in (
        Order(folders, (Job(SPEC), Job(SPEC.replace(seed=1))), Cluster("10.0.0.5:6379", 4, True)),
        Order(folders, (Job(SPEC, 7, "folder:/elsewhere"),)),
        Order(folders),
    ):
        assert Order.from_json(order.to_json()) == order
