"""The command line, as a person or a script uses it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress
from sklearn import metrics

from engine.cli import main, training
from engine.cli.parser import build_parser, specs_from
from engine.control import RunControl
from engine.errors import SpecError
from engine.events import RunContinued, RunStarted, StepsCompleted
from engine.launch.opening import Opening
from engine.paths import Folders, find_folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.engine.test_datasets import make_folder
from tests.fakes import events_of, started
from tests.waiting import WITHIN_S

OPENED: list[Opening] = []


def reslab(*words: str) -> int:
    return main(words, lambda opening: OPENED.append(opening) or 0)  # type: ignore[func-returns-value]


def output_of(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert reslab(*words) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A home with a run in it, and what its command printed."""
    home, out = tmp_path_factory.mktemp("trained") / "home", io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out):
        patched.setenv("RESLAB_TUNE", "0")
        patched.setenv("RESLAB_CACHE", str(home.parent / "cache"))
        words = ("train", "digits", "resnet18", "--epochs", "1", "--json", "--home", str(home))
        assert reslab(*words, "--data-dir", str(home.parent / "data")) == 0
    return home, out.getvalue()


@pytest.fixture
def trained(trained_home: tuple[Path, str], folders: Folders) -> list[dict[str, Any]]:
    """What the command printed; the run stands in the home of this test."""
    home, out = trained_home
    shutil.copytree(home, folders.home)
    return [json.loads(line) for line in out.splitlines()]


def test_json_is_one_event_a_line_and_nothing_else(trained: list[dict[str, Any]]) -> None:
    slow = {"evaluation_progressed"}  # of an evaluation that takes longer than an eye-blink, beside other work
    assert {event["event"] for event in trained} - slow == {
        "dataset_progressed", "run_started", "evaluated", "steps_completed", "epoch_ended", "checkpoint_saved",
        "gradients_measured", "memory_forecasted", "run_ended",
    }  # fmt: skip
    assert {event["run"] for event in trained} == {1}
    end = trained[-1]
    assert end["status"] == "completed"
    for moment in ("untrained", "final"):
        assert set(end[moment]) == {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "loss"}
    assert end["train_images_per_s"] > 0
    assert end["elapsed_s"] > 0


def test_scikit_learn_on_the_predictions_gives_the_same_five_figures(
    trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("predictions", "1") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == [
        "index", "file", "true", "predicted", "true_class_index", "predicted_class_index", "confidence"
    ]  # fmt: skip
    assert [int(row["index"]) for row in rows] == list(range(360))
    true, predicted = ([int(row[name]) for row in rows] for name in ("true", "predicted"))
    average = {"labels": range(10), "average": "macro", "zero_division": 0}
    expected = {
        "accuracy": metrics.accuracy_score(true, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(true, predicted),
        "precision": metrics.precision_score(true, predicted, **average),
        "recall": metrics.recall_score(true, predicted, **average),
        "f1": metrics.f1_score(true, predicted, **average),
    }
    for name, value in expected.items():
        assert trained[-1]["final"][name] == pytest.approx(value, abs=1e-6), name


def test_runs_show_export_and_delete(trained: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = output_of(capsys, "runs", "--json")
    assert run["run"] == 1
    assert (run["dataset"], run["model"], run["status"]) == ("digits", "resnet18", "completed")
    assert run["final"] == trained[-1]["final"]
    assert {"untrained", "train_images_per_s", "elapsed_s", "error"} <= set(run)
    shown = output_of(capsys, "show", "1", "--json")
    assert shown["intact"] is True
    assert len(shown["evaluations"][-1]["confusion"]) == 10
    assert reslab("show", "1") == 0
    text = capsys.readouterr().out
    assert f"{100 * run['final']['accuracy']:.3f} %" in text
    assert "conv1 3→1 channels, fc 1000→10 classes" in text
    assert reslab("delete", "1") == 0
    assert output_of(capsys, "runs", "--json") == []
    assert not Path(os.environ["RESLAB_HOME"], "1").exists()


def test_where_runs_trained_is_listed_once_one_did_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    spec = RunSpec("digits", "resnet18")
    with Store(find_folders().database) as store:
        for workers in ("", "2 workers on one machine, batch-norm per worker"):
            events = events_of(spec, store.create_run(spec))
            assert isinstance(events[0], RunStarted)
            events[0] = replace(events[0], resolved=replace(events[0].resolved, workers=workers))
            for event in events:
                store.record(event)
            assert reslab("runs") == 0
    alone, both = capsys.readouterr().out.split("RUN")[1:]
    assert "WHERE" not in alone
    assert [line.rstrip().rpartition("  ")[2] for line in both.splitlines()] == [
        "WHERE", "2 workers on one machine, batch-norm per worker", "here"
    ]  # fmt: skip


def test_lists_need_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert [row["name"] for row in output_of(capsys, "datasets", "--json")][:2] == ["digits", "mnist"]
    assert output_of(capsys, "models", "--json")[0]["num_parameters"] == 11_689_512
    assert reslab("datasets") == reslab("models") == reslab("runs") == 0
    assert "no runs yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["train", "digits", "resnet18", "--epochs", "ten"], "epochs: 'ten' is not valid; expected a whole number"),
        (["train", "digits", "resnet18", "--momentum", "1"], "momentum"),
        (["train", "digts", "resnet18"], "did you mean digits?"),
        (["train", "digits"], "missing: model"),
        (["train", "digits", "resnet18", "--lr", "1"], "--lr"),
        (["train", "folder:/nowhere", "resnet18"], "no folder /nowhere"),
        (["train", "digits", "resnet18", "--weights", "/nowhere.pth"], "no weights file"),
        (["train", "--spec", "/nowhere.toml"], "cannot read /nowhere.toml"),
        (["train", "digits", "resnet18", "--device", "mps"], "choose device auto or cpu"),
        (["train", "digits", "resnet18", "--exit"], "it needs --tui"),
        (["show", "7"], "there is no run 7"),
        (["predictions", "x"], "invalid int value"),
        (["dance"], "invalid choice"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert says in captured.err
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err


def test_a_failed_run_is_exit_code_1(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    def offline(*arguments: Any, **named: Any) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    assert reslab("train", "mnist", "resnet18") == 1
    assert "expected its files in" in capsys.readouterr().err
    assert output_of(capsys, "runs", "--json")[0]["status"] == "failed"


def test_a_spec_file_is_overridden_by_options(tmp_path: Path) -> None:
    OPENED.clear()
    spec = RunSpec("digits", "resnet50", epochs=7, nesterov=True)
    (tmp_path / "spec.toml").write_text(spec.to_toml())
    assert reslab("train", "--spec", str(tmp_path / "spec.toml"), "--tui", "--seed", "3", "--no-nesterov") == 0
    opening = OPENED[-1]
    assert opening.specs == (spec.replace(seed=3, nesterov=False),)
    assert isinstance(opening.folders, Folders)
    assert (opening.exit, opening.cluster, opening.attached) == (False, None, None)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--on", "slurm"), "expected ray, or ray:ADDRESS"),
        (("--on", "ray:"), "expected ray, or ray:ADDRESS"),
        (("--on", "ray", "--num-workers", "0"), "expected a whole number from 1"),
        (("--num-workers", "2"), "--num-workers is for runs on Ray; add --on ray"),
        (("--sync-batchnorm",), "--sync-batchnorm is for runs on Ray; add --on ray"),
        (("--detach", "--seeds", "2"), "--detach starts one run"),
    ],
)
def test_what_cannot_be_trained_there_is_one_sentence(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("train", "digits", "resnet20", *words) == 2
    assert says in capsys.readouterr().err


def test_without_the_extra_on_ray_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("engine.launch.ray.find_spec", lambda name: None)
    assert reslab("train", "digits", "resnet20", "--on", "ray") == 2
    assert "use uv run --extra cluster reslab" in capsys.readouterr().err


def test_options_change_the_folders(tmp_path: Path) -> None:
    OPENED.clear()
    assert reslab("--home", str(tmp_path / "h"), "--data-dir", str(tmp_path / "d")) == 0
    assert OPENED[-1].folders == Folders(tmp_path / "h", tmp_path / "d", tmp_path / "cache")


HOSTILE = ["[red]x", "[@click=app.quit]x", "]52;c;aGFjaw==\x07\x1b]52;c;aGFjaw==\x07", "\x1b[2Jx\u202ey"]


def test_hostile_class_names_are_harmless_in_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_folder(tmp_path / "\x1b]0;title\x07[bold]", dict.fromkeys(HOSTILE, 5), size=(8, 8))
    assert reslab("train", f"folder:{root}", "resnet18", "--epochs", "1", "--test-share", "0.3") == 0
    assert reslab("runs") == reslab("show", "1") == 0
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        assert not any(char in text for char in "\x1b\x07\u202e")
    assert "[red]x" in captured.out
    assert "[@click=app.quit]x" in captured.out


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGHUP])
def test_signals_stop_cleanly_with_exit_code_130(
    number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.cli import training

    show = training.JsonLines.show

    def show_and_signal(self: Any, event: Any) -> None:
        show(self, event)
        if type(event).__name__ == "EpochEnded":
            signal.raise_signal(number)
            signal.raise_signal(number)  # as `timeout uv run reslab …` does: to the group, and handed on by uv

    monkeypatch.setattr(training.JsonLines, "show", show_and_signal)
    before = signal.getsignal(number)
    assert reslab("train", "digits", "resnet20", "--epochs", "500", "--json") == 130
    captured = capsys.readouterr()
    last = json.loads(captured.out.splitlines()[-1])
    assert (last["event"], last["status"]) == ("run_ended", "stopped")
    assert captured.err == "reslab: stopping after this step; again to abort\n"
    assert signal.getsignal(number) is before


def test_a_second_signal_after_a_while_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "SAME_SIGNAL_S", -1.0)
    control = RunControl()
    with training.on_signals(control, elsewhere=False, only_looks=False):
        signal.raise_signal(signal.SIGINT)
        assert control.stop_requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_the_progress_bar_takes_no_name_for_markup(tmp_path: Path) -> None:
    """On a terminal, for only there the bar is drawn; rich would raise at a closing tag that nothing opened."""
    root = make_folder(tmp_path / "x[" / "b]", {"a": 4, "b": 4}, size=(8, 8))
    code = (
        "import pty, sys; output = []\n"
        "def read(fd):\n    import os; data = os.read(fd, 4096); output.append(data); return data\n"
        f"words = ['train', 'folder:{root}', 'resnet20', '--epochs', '1']\n"
        "status = pty.spawn([sys.executable, '-m', 'tui', *words], read)\n"
        "sys.exit(status or b'MarkupError' in b''.join(output))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, stdin=subprocess.DEVNULL, timeout=WITHIN_S
    )
    assert b"completed" in result.stdout
    assert b"MarkupError" not in result.stdout
    assert result.returncode == 0


def test_without_a_terminal_the_app_says_so_and_names_train() -> None:
    result = subprocess.run([sys.executable, "-m", "tui"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert result.stderr == "reslab: the app needs a terminal; without one use reslab train DATASET MODEL\n"


def test_doctor_names_what_it_looked_at(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {item["subject"]: item for item in output_of(capsys, "doctor", "--json")}
    assert {"torch", "torchvision", "device", "NVML", "SQLite", "terminal", "home folder", "data folder"} <= set(
        findings
    )


def test_doctor_names_a_torchvision_that_does_not_belong_to_torch(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import engine.device

    def broken(name: str) -> None:
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(engine.device, "import_module", broken)
    assert reslab("doctor") == 1
    assert "torch and torchvision come from different builds" in capsys.readouterr().out
    assert reslab("train", "digits", "resnet18") == 1
    assert "uv sync --reinstall-package torch" in capsys.readouterr().err


def test_every_setting_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    from engine.settings import settings_of

    with pytest.raises(SystemExit) as end:
        reslab("train", "--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    for name, item in settings_of(RunSpec).items():
        assert (item.flag if name not in ("dataset", "model") else name.upper()) in text


def parsed(*words: str) -> RunSpec:
    (spec,) = specs_from(build_parser().parse_args(["train", *words]))
    return spec


def test_a_recipe_is_what_files_and_options_begin_with(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('dataset = "digits"\nmodel = "resnet20"\nlabel_smoothing = 0.0\n', encoding="utf-8")
    plain = parsed("digits", "resnet20")
    assert parsed("digits", "resnet20", "--recipe", "report") == plain
    fast = parsed("--spec", str(file), "--recipe", "fast", "--learning-rate", "0.05")
    assert (fast.schedule, fast.nesterov, fast.epochs) == ("one-cycle", True, 1)
    assert (fast.learning_rate, fast.label_smoothing) == (0.05, 0.0)
    with pytest.raises(SpecError, match="report, fast"):
        parsed("digits", "resnet20", "--recipe", "slow")


def test_the_time_left_of_a_run_that_goes_on_is_not_that_of_its_past(folders: Folders) -> None:
    now = 0.0
    bar = Progress(get_time=lambda: now, disable=True)
    view = training._Bar(bar, Console(file=io.StringIO()), RunSpec("digits", "resnet18", epochs=40), quiet=True)
    view.show(started(RunSpec("digits", "resnet18", epochs=40)))
    for step in range(1, 401):  # the past, told again in no time
        now += 0.0001
        view.show(StepsCompleted(1, 1 + step // 12, step, (2.0,), (0.5,), 0.01, 128 * step, 0.1 * step))
    view.show(RunContinued(1, 400, ()))
    for step in range(401, 421):
        now += 1.0
        view.show(StepsCompleted(1, 1 + step // 12, step, (2.0,), (0.5,), 0.01, 128 * step, 0.1 * step))
    assert bar.tasks[0].time_remaining == pytest.approx(480 - 420, rel=0.1)
