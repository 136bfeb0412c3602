"""Runs that another process carries: their events over a file and back, what followers ask, and how all of it ends."""

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
from engine.launch.requests import ControlRequest, ask
from engine.launch.stream import Stream, stream_path
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests import waiting
from tests.fakes import Carried, evaluated, events_of, metrics, started, without_bytes
from tests.waiting import join

SPEC = RunSpec("digits", "resnet20", epochs=3)


@pytest.fixture
def run(folders: Folders) -> Iterator[Carried]:
    with closing(Carried(SPEC, folders)) as made:
        yield made


@contextmanager
def followed(run: int, folders: Folders, control: RunControl) -> Iterator[list[Event]]:
    """What a follower in another thread has seen so far."""
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
    assert waiting.until(what, every_s=0.01), "it did not come to that"


def test_two_followers_see_all_of_it_whenever_they_come(run: Carried, folders: Folders) -> None:
    told = events_of(SPEC, run.run)
    run.tell(*told[:4])
    with followed(run.run, folders, RunControl()) as first:
        until(lambda: len(first) == 4)
        run.tell(*told[4:7])
        with followed(run.run, folders, RunControl()) as second:
            until(lambda: len(first) == len(second) == 7)
            run.tell(*told[7:])
            run.stream.close()
            until(lambda: len(first) == len(second) == len(told))
    assert first == second == list(map(without_bytes, told))
    assert list(run.folder.iterdir()) == []


def test_a_half_written_line_waits_for_its_other_half(
    run: Carried, folders: Folders, monkeypatch: pytest.MonkeyPatch
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


def test_what_a_follower_asks_reaches_the_run(run: Carried, folders: Folders) -> None:
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


def test_who_leaves_asks_nothing(run: Carried, folders: Folders) -> None:
    with followed(run.run, folders, control := RunControl()):
        control.leave()
    assert [path.name for path in run.folder.iterdir()] == ["stream.jsonl"]  # and no asking beside it


def test_a_run_that_another_has_paused_goes_on_with_the_first_key(run: Carried, folders: Folders) -> None:
    run.tell(*events_of(SPEC, run.run)[:4], RunPaused(run.run, 6))
    run.control.pause()
    with followed(run.run, folders, control := RunControl()) as seen:
        until(lambda: len(seen) == 5)
        assert control.pause_requested
        assert run.control.pause_requested
        control.resume()
        until(lambda: not run.control.pause_requested)
        control.pause()  # at once, before the run has said that it goes on
        until(lambda: run.control.pause_requested)
        run.tell(RunResumed(run.run, 6, 1.0))
        until(lambda: len(seen) == 6)
        assert control.pause_requested
        run.tell(RunPaused(run.run, 6))
        until(lambda: len(seen) == 7)
        assert control.pause_requested


def test_who_began_it_hears_of_an_end_that_was_quicker(run: Carried, folders: Folders) -> None:
    run.tell(*events_of(SPEC, run.run))
    run.stream.close()
    (end,) = follow(run.run, folders, RunControl(), begun=True)
    assert isinstance(end, RunEnded)
    assert (end.status, end.final) == ("completed", metrics(0.775))


def test_a_run_that_cannot_be_asked_says_so(run: Carried, folders: Folders) -> None:
    control = RunControl()
    told = follow(run.run, folders, control)
    run.tell(RunPaused(run.run, 1))
    next(told)
    (run.folder / f"asked.{os.getpid()}.part").mkdir()
    control.stop()
    with pytest.raises(StoreError, match="cannot be asked to pause or stop"):
        next(told)


@pytest.mark.slow
def test_the_stream_of_a_process_that_was_killed_goes_when_the_run_does_on(folders: Folders) -> None:
    from engine.lab import Lab
    from tests.running import run_until

    run_until(StepsCompleted, folders, SPEC)
    old = stream_path(folders.run_folder(1))
    old.write_text("{}\n")
    there = [old.exists() for event in Lab(folders).resume(1).events() if isinstance(event, events.RunContinued)]
    assert there == [False]


def test_what_a_worker_elsewhere_has_written_meanwhile_is_left_alone(tmp_path: Path) -> None:
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
def test_whoever_leaves_before_the_run_has_begun_is_let_go(folders: Folders) -> None:
    control = RunControl()
    threading.Timer(0.3, control.leave).start()
    assert list(started_in(folders, Job(SPEC.replace(epochs=1)), control)) == []
    until(lambda: folders.database.is_file())
    with Store(folders.database) as store:
        until(lambda: store.runs() and store.runs()[0].status == "completed")


def test_nonsense_that_is_asked_is_no_harm(run: Carried) -> None:
    for text in ("", "{", '{"pause": true, "fly": 1}', "[]"):
        (run.folder / "asked.json").write_text(text)
        run.requests.hear()
    assert not run.control.pause_requested
    ask(run.folder, ControlRequest(pause=True))
    until(lambda: run.control.pause_requested)


def test_a_run_whose_stream_cannot_be_written_goes_on(folders: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stream = Stream(tmp_path / "file" / "1")
    stream.tell(RunPaused(1, 3))
    stream.close()


def test_a_follower_hears_of_the_end_that_nobody_told(run: Carried, folders: Folders) -> None:
    run.tell(*events_of(SPEC, run.run)[:4])
    with followed(run.run, folders, RunControl()) as seen:
        until(lambda: len(seen) == 4)
        run.store.close()  # as if its process were killed: nothing carries it any more
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


def test_a_process_of_its_own_carries_a_run_through_the_loss_of_whoever_began_it(folders: Folders) -> None:
    spec = SPEC.replace(epochs=400)
    number = next(DetachedProcess(Order(folders, (Job(spec),))).runs())  # nobody reads what it says any more
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
def test_a_process_of_its_own_goes_on_with_a_run_and_hears_a_signal_as_any_other(folders: Folders) -> None:
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
def test_what_keeps_a_run_from_being_begun_is_told_by_its_process(folders: Folders) -> None:
    with pytest.raises(ReslabError, match=r"no weights file /nowhere\.pth"):
        next(started_in(folders, Job(SPEC.replace(weights="/nowhere.pth"))))


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (signal.SIGKILL, "was lost (exit code -9); "),
        pytest.param(signal.SIGTERM, "was asked to stop; ", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_ends_before_its_time_is_no_good_end(folders: Folders, number: int, says: str) -> None:
    """Else the app would begin it again, and whoever waits for the queue take it for done."""
    process = DetachedProcess(Order(folders, (Job(SPEC.replace(epochs=1000)),)))
    runs = process.runs(least=0)
    assert next(runs) == 1
    process._process.send_signal(number)
    with pytest.raises(ReslabError, match=re.escape(says)) as caught:
        next(runs)
    assert "what waited for its turn still does" in str(caught.value)


@pytest.mark.slow
def test_whoever_asks_it_to_stop_is_told_of_no_fault(folders: Folders) -> None:
    process = DetachedProcess(Order(folders, (Job(SPEC.replace(epochs=1000)),)))
    runs = process.runs()
    assert next(runs) == 1
    process.stop()
    assert list(runs) == []


def test_an_order_comes_through_as_it_was(folders: Folders) -> None:
    from engine.launch.ray import Cluster

    for order in (
        Order(folders, (Job(SPEC), Job(SPEC.replace(seed=1))), Cluster("10.0.0.5:6379", 4, True)),
        Order(folders, (Job(SPEC, 7, "folder:/elsewhere"),)),
        Order(folders),
    ):
        assert Order.from_json(order.to_json()) == order
