"""The same tests for every way to run: in this process, in one of its own, on Ray."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from engine.control import RunControl
from engine.errors import ReslabError
from engine.events import (
    Evaluated,
    Event,
    RunContinued,
    RunEnded,
    RunPaused,
    RunResumed,
    RunStarted,
    StepsCompleted,
)
from engine.lab import Lab
from engine.launch.backend import Backend, Handle, Job, Limit
from engine.launch.detached import Detached
from engine.launch.in_process import InProcess
from engine.launch.ray import Cluster, require_ray
from engine.launch.scheduler import Scheduler, StoredQueue
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.own_files import DATA, NET, write
from tests.waiting import until

SPEC = RunSpec("digits", "resnet20", epochs=1, dtype="float32")
LONG = SPEC.replace(epochs=500, checkpoint_every=1)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(
    params=[
        "in process",
        pytest.param("detached", marks=pytest.mark.slow),
        pytest.param("ray", marks=pytest.mark.cluster),
    ]
)
def backend(request: pytest.FixtureRequest, folders: Folders) -> Iterator[Backend]:
    match request.param:
        case "in process":
            yield InProcess(folders)
        case "detached":
            yield Detached(folders)
        case _:
            require_ray()
            from engine.launch.ray.backend import RayBackend
            from engine.launch.ray.driver import connected

            cluster = Cluster()
            with connected(cluster, folders):
                yield RayBackend(folders, cluster)


def losses(events: list[Event]) -> list[float]:
    return [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]


def test_its_events_come_in_order_and_are_stored(backend: Backend, folders: Folders) -> None:
    handle = backend.start(Job(SPEC))
    events = list(handle.events())
    kinds = [type(event) for event in events if type(event) in (RunStarted, Evaluated, StepsCompleted, RunEnded)]
    assert kinds[:2] == [RunStarted, Evaluated]
    assert kinds[-2:] == [Evaluated, RunEnded]
    assert set(kinds[2:-2]) == {StepsCompleted}
    firsts = [event.first_step for event in events if isinstance(event, StepsCompleted)]
    assert firsts == sorted(firsts)
    assert handle.ended == events[-1]
    assert handle.run == 1
    details = Lab(folders).run(1)
    assert details.record.status == "completed"
    assert list(details.curve.losses) == losses(events)
    assert len(losses(events)) == 12


def test_it_hears_pause_resume_and_stop(backend: Backend, folders: Folders) -> None:
    control, seen = RunControl(), list[type[Event]]()
    for event in backend.start(Job(LONG), control).events():
        seen.append(type(event))
        if isinstance(event, StepsCompleted) and RunPaused not in seen:
            control.pause()
        elif isinstance(event, RunPaused):
            control.resume()
        elif isinstance(event, RunResumed):
            control.stop()
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"
    assert seen.index(RunPaused) < seen.index(RunResumed)
    assert Lab(folders).run(1).record.status == "stopped"


def test_a_run_that_was_stopped_goes_on_where_it_was(backend: Backend, folders: Folders) -> None:
    control = RunControl()
    for event in backend.start(Job(LONG), control).events():
        if isinstance(event, StepsCompleted):
            control.stop()
    assert isinstance(event, RunEnded)
    at, control = event.steps, RunControl()
    (continued,) = [
        item for item in _stopped_at_once(backend.start(Job(LONG, 1), control)) if isinstance(item, RunContinued)
    ]
    assert continued.step == at


def _stopped_at_once(handle: Handle) -> Iterator[Event]:
    for event in handle.events():
        yield event
        if isinstance(event, RunContinued):
            handle.control.stop()


def test_what_cannot_start_is_one_sentence_and_leaves_no_run(backend: Backend, folders: Folders) -> None:
    with pytest.raises(ReslabError, match=r"no weights file /nowhere\.pth"):
        list(backend.start(Job(SPEC.replace(weights="/nowhere.pth"))).events())
    assert Lab(folders).runs() == []


def test_a_run_that_fails_says_why(backend: Backend, folders: Folders, tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "1.png").write_text("no image")
    (*_, end) = backend.start(Job(SPEC.replace(dataset=f"folder:{tmp_path / 'images'}"))).events()
    assert isinstance(end, RunEnded)
    assert end.status == "failed"
    assert "no image" in str(end.error)
    assert Lab(folders).run(1).record.error == end.error


def test_a_process_that_is_killed_loses_no_step(backend: Backend, folders: Folders) -> None:
    """On Ray another worker goes on; a process of its own is resumed by hand. Nothing survives this process."""
    if isinstance(backend, InProcess):
        pytest.skip("it would be this process")
    events = list[Event]()
    for event in backend.start(Job(LONG.replace(epochs=30))).events():
        events.append(event)
        if isinstance(event, StepsCompleted) and event.last_step > 40:
            _kill_trainer(backend, folders)
    assert isinstance(event, RunEnded)
    if isinstance(backend, Detached):
        assert event.status == "failed"
        (*_, event) = backend.start(Job(LONG.replace(epochs=30), 1)).events()
    assert isinstance(event, RunEnded)
    assert event.status == "completed"
    assert len(Lab(folders).run(1).curve.losses) == 30 * 12


def _kill_trainer(backend: Backend, folders: Folders) -> None:
    """Once: the process that trains run 1."""
    mark = folders.home / "killed"
    if mark.exists():
        return
    mark.touch()
    if isinstance(backend, Detached):
        with Store(folders.database) as store:
            ((pid,),) = store.query("SELECT pid FROM runs WHERE run = 1")
        os.kill(pid, signal.SIGKILL)
        return
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0].startswith("ray::TrainActor"):
            process.kill()


@pytest.mark.slow
def test_the_queue_may_change_while_a_run_is_under_way(backend: Backend, folders: Folders) -> None:
    """The third is moved before the second, another is added and one removed while the first trains."""
    specs = [SPEC.replace(seed=seed) for seed in range(4)]
    with Store(folders.database) as store:
        store.enqueue(specs)
        entries = store.waiting()
    scheduler, changed = Scheduler(StoredQueue(folders), backend, Limit(), folders), False
    for event in scheduler.events(RunControl()):
        if isinstance(event, RunStarted) and not changed:
            changed = True
            with Store(folders.database) as store:
                store.move_waiting(entries[2].number, -1)
                store.remove_waiting(entries[3].number)
                store.enqueue([SPEC.replace(seed=9)])
    runs = Lab(folders).runs()
    assert [(run.run, run.spec["seed"]) for run in reversed(runs)] == [(1, 0), (2, 2), (3, 1), (4, 9)]
    assert {run.status for run in runs} == {"completed"}


def test_images_of_a_folder_are_found_by_every_backend(backend: Backend, folders: Folders, tmp_path: Path) -> None:
    for number in range(24):
        folder = tmp_path / "images" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (200 * (number % 2), number, 0)).save(folder / f"{number}.png")
    spec = SPEC.replace(dataset=f"folder:{tmp_path / 'images'}", batch_size=8)
    ended = backend.start(Job(spec)).wait()
    assert ended is not None
    assert ended.status == "completed", ended.error
    assert Lab(folders).run(1).class_names == ("a", "b")


def test_who_leaves_lets_go_of_it(backend: Backend, folders: Folders) -> None:
    """A run elsewhere goes on; one of this process, or driven by it, stops when its events are closed."""
    handle = backend.start(Job(LONG))
    events = handle.events()
    for event in events:
        if isinstance(event, StepsCompleted):
            break
    if backend.survives:
        handle.control.leave()
        events.close()
        assert Lab(folders).summary(1).status == "running"
        Lab(folders).stop(1)
    else:
        events.close()
    until(lambda: Lab(folders).summary(1).status == "stopped")


def test_a_network_and_a_dataset_of_ones_own_work_in_every_backend(
    backend: Backend, folders: Folders, tmp_path: Path
) -> None:
    write(tmp_path / "net.py", NET)
    write(tmp_path / "data.py", DATA)
    spec = SPEC.replace(dataset=f"code:{tmp_path}/data.py:load", model=f"{tmp_path}/net.py:Net")
    ended = backend.start(Job(spec)).wait()
    assert ended is not None
    assert ended.status == "completed", ended.error
    started = Lab(folders).run(1).started
    assert started is not None
    assert started.model_sha256
