"""`reslab stop`, `pause` and `resume` on runs in other processes, as a person or a script uses them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from engine.control import RunControl
from engine.events import Event, RunEnded, RunPaused, RunResumed, Status
from engine.launch.requests import ControlRequest, RequestListener, is_paused, send_request
from engine.paths import Folders, find_folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.engine.test_cli import reslab
from tests.fakes import DetachedRun, events_of
from tests.waiting import WITHIN_S, exit_code, join

SPEC = RunSpec("digits", "resnet20", epochs=3)
BEGUN = events_of(SPEC)[:5]
LISTEN_S = 0.01


@contextmanager
def live_run(status: Status = "stopped", error: str | None = None) -> Iterator[DetachedRun]:
    """A run in another thread that does what is requested, as one does between two steps; it ends with `status`."""
    ready, made = threading.Event(), list[DetachedRun]()

    def work() -> None:
        run = DetachedRun(SPEC, find_folders())
        run.emit(*(replace(event, run=run.run) for event in BEGUN))
        made.append(run)
        ready.set()
        paused = False
        while not run.control.stop_requested:
            if run.control.pause_requested != paused:
                paused = not paused
                run.emit(RunPaused(run.run, 12) if paused else RunResumed(run.run, 12, 1.0))
            run.control.wait(LISTEN_S)
        run.emit(RunEnded(run.run, status, None, None, 2.5, None, 12, error))
        run.close()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(WITHIN_S)
    try:
        yield made[0]
    finally:
        made[0].control.stop()
        join(thread)


def test_stop_waits_for_the_end_and_says_how_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    with live_run() as run:
        assert reslab("stop", str(run.run)) == 0
        with Store(find_folders().database) as store:
            assert store.run(run.run).status == "stopped"
    captured = capsys.readouterr()
    assert captured.out == "run 1 stopped after 2.5 s, at step 12; reslab resume 1 continues it\n"
    assert captured.err.startswith("run 1 is stopping after its step")


def test_a_run_is_paused_and_continued_by_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with live_run() as run:
        for command, says in (("pause", "is paused"), ("pause", "is paused"), ("resume", "has resumed")):
            assert reslab(command, "1") == 0
            assert says in capsys.readouterr().out
            assert run.control.pause_requested == is_paused(run.folder) == (command == "pause")
        assert reslab("resume", "1") == 2
        assert "run 1 is running and not paused" in capsys.readouterr().err
        for option in (("--detach",), ("--on", "ray")):
            assert reslab("resume", "1", *option) == 2


def test_what_keeps_a_paused_run_where_it_is_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.launch.ray.find_spec", lambda name: object())
    with live_run():
        assert reslab("resume", "1", "--detach") == 2
        assert "leave out --detach" in capsys.readouterr().err


def test_json_is_the_run_as_it_stands_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with live_run():
        for command, status in (("pause", "paused"), ("resume", "running"), ("stop", "stopped")):
            assert reslab(command, "1", "--json") == 0
            captured = capsys.readouterr()
            found = json.loads(captured.out)
            assert (found["run"], found["status"], captured.err) == (1, status, "")


def test_a_run_that_fails_meanwhile_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    with live_run("failed", "the disk is full"):
        assert reslab("stop", "1") == 1
    assert "run 1 failed after 2.5 s, at step 12: the disk is full" in capsys.readouterr().out


def test_a_run_whose_process_died_is_not_waited_for(capsys: pytest.CaptureFixture[str], folders: Folders) -> None:
    with Store(find_folders().database) as store:
        store.create_run(SPEC)
    for command in ("stop", "pause"):
        assert reslab(command, "1") == 2
        assert "run 1 is failed; only a running run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["stop", "pause", "resume"])
def test_what_is_no_running_run_is_one_sentence(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert reslab(command, "7") == 2
    assert capsys.readouterr().err == "reslab: there is no run 7, or it was deleted\n"


def test_ctrl_c_stops_waiting_and_the_request_stands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupt)
    monkeypatch.setattr(RequestListener, "poll", lambda self: None)  # the run is in a step that takes long
    with live_run() as run:
        assert reslab("stop", "1") == 130
        assert json.loads((run.folder / "asked.json").read_text())["stop"] is True
    assert "run 1 still has the request" in capsys.readouterr().err


def test_delete_names_the_command_that_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    with live_run():
        assert reslab("delete", "1") == 2
    assert "reslab stop 1 ends it" in capsys.readouterr().err


def test_a_request_to_a_killed_process_is_not_applied_to_the_next_one(folders: Folders) -> None:
    folder = folders.run_folder(1)
    send_request(folder, ControlRequest(stop=True))
    (folder / "paused").touch()
    control = RunControl()
    requests = RequestListener(folder, control)
    requests.poll()
    assert not control.stop_requested
    assert list(folder.iterdir()) == []
    requests.close()


def test_a_run_in_this_very_process_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    """As the app and a plain `reslab train` make one: the listener is the run's own, not that of a detached process."""
    from engine.lab import Lab

    seen: list[Event] = []
    started = threading.Event()

    def work() -> None:
        for event in Lab(find_folders()).train(SPEC.replace(epochs=1000)).events():
            seen.append(event)
            started.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(WITHIN_S)
    assert reslab("pause", "1") == 0
    assert isinstance(seen[-1], RunPaused)
    assert reslab("resume", "1") == 0
    assert reslab("stop", "1") == 0
    join(thread)
    (ended,) = (event for event in seen if isinstance(event, RunEnded))
    assert (ended.status, ended.error) == ("stopped", None)


@contextmanager
def training_elsewhere(*words: str) -> Iterator[subprocess.Popen[str]]:
    """A process of `reslab train`, waited for until its run has taken its first steps."""
    command = (sys.executable, "-m", "tui", "train", "digits", "resnet20", "--epochs", "1000", "--json", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if json.loads(line).get("event") == "steps_completed":
                    break
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()


@pytest.mark.slow
def test_a_plain_train_in_another_terminal_is_paused_resumed_and_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    with training_elsewhere() as process:
        assert process.stdout is not None
        assert reslab("pause", "1") == 0
        assert reslab("resume", "1") == 0
        assert reslab("stop", "1", "--json") == 0
        events: list[dict[str, Any]] = [json.loads(line) for line in process.stdout]
        assert exit_code(process) == 130
    names = [event["event"] for event in events]
    assert names.index("run_paused") < names.index("run_resumed") < names.index("run_ended")
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["status"] == "stopped"


@pytest.mark.slow
def test_a_detached_run_is_paused_continued_and_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert reslab("train", "digits", "resnet20", "--epochs", "1000", "--detach", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"run": 1}
    for command in ("pause", "resume", "stop"):
        assert reslab(command, "1") == 0
    assert reslab("resume", "1", "--detach") == 0  # begun anew, or from its checkpoint
    assert reslab("stop", "1") == 0


@pytest.mark.slow
def test_the_death_of_the_process_ends_the_waiting(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with training_elsewhere() as process:
        os.kill(process.pid, signal.SIGSTOP)  # it hears nothing any more
        monkeypatch.setattr(time, "sleep", lambda seconds: os.kill(process.pid, signal.SIGKILL))
        assert reslab("stop", "1") == 1
    assert "run 1 failed" in capsys.readouterr().out
