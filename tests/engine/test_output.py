"""Every command, wherever its output goes: no letters for it, no room, nobody who reads, no stream, no home.

The commands come from the parser itself, so a new one is tried as well; where it takes a word that is not known here,
the test says so. Those that are used most are tried each time, the others with the slow tests.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import pytest
from PIL import Image

from engine.cli import main, output
from engine.cli.output import Output, printable, standard_streams
from engine.cli.parser import build_parser
from engine.errors import DatasetError, OutputError, SpecError
from engine.events import Event, RunEnded
from engine.failures import describe_failure
from engine.launch.backend import Job
from engine.paths import DATABASE_NAME, Folders, find_folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of, started

LETTERS = ("日本", "été – ×", "plain")
STANDS_FOR = {
    "RUN": ["1"], "DATASET": ["digits"], "MODEL": ["resnet20"], "REPORT": ["part2"], "IMAGE": ["image.png"],
}  # fmt: skip
NEEDED = {"train": ("dataset", "model"), "forecast": ("dataset", "model")}  # optional for argparse, not for the command
SPEC = RunSpec("digits", "resnet20", epochs=1)


def command_lines() -> dict[str, list[str]]:
    """Words for each command of the parser."""
    parser = build_parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    lines = {"help": ["--help"]}
    for name, command in commands.choices.items():
        words = [name]
        for action in command._actions:
            if not action.option_strings and (action.nargs != "?" or action.dest in NEEDED.get(name, ())):
                words += STANDS_FOR[str(action.metavar)]
        lines[name] = words
        lines[f"{name} --help"] = [name, "--help"]
        if "--json" in command._option_string_actions:
            lines[f"{name} --json"] = [*words, "--json"]
    return lines


LINES = command_lines()
OFTEN = ("train", "train --json", "runs", "show", "forecast", "help")  # always tried; the others with the slow tests


def each_of(lines: dict[str, list[str]]) -> pytest.MarkDecorator:
    tried = [
        pytest.param(words, id=name, marks=() if name in OFTEN else pytest.mark.slow) for name, words in lines.items()
    ]
    return pytest.mark.parametrize("words", tried)


every_line = each_of(LINES)
WORKING = {name: words for name, words in LINES.items() if "--help" not in words}
every_command = each_of(WORKING)


@pytest.fixture(scope="session")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose record has one run, of classes with all kinds of letters."""
    home = tmp_path_factory.mktemp("one-run")
    with Store(home / DATABASE_NAME) as store:
        for event in events_of(SPEC, store.create_run(SPEC), LETTERS[:2]):
            store.record(event)
    return home


@pytest.fixture(autouse=True)
def _a_home_and_trainings_that_take_no_time(one_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.copytree(one_run, find_folders().home)
    monkeypatch.chdir(tmp_path)
    Image.new("L", (8, 8)).save("image.png")
    monkeypatch.setattr("engine.launch.recording.record_events", scripted)
    monkeypatch.setattr("engine.store.store.Store.delete", lambda store, run: None)  # it is needed again


def scripted(job: Job, folders: Folders, trainer: Any, control: Any) -> Iterator[Event]:
    with Store(folders.database) as store:
        run = store.create_run(job.spec)
        for event in events_of(job.spec, run, LETTERS[:2]):
            store.record(event)
            yield event


@contextmanager
def streams(out: TextIO | None, err: TextIO | None) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def code_of(words: list[str]) -> int:
    try:
        return main(words, lambda opening: 0)
    except SystemExit as end:  # --help
        return int(end.code or 0)


def text_in(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", write_through=True)


def written(stream: io.TextIOWrapper) -> str:
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(stream.encoding)


def in_utf_8(words: list[str]) -> tuple[int, str]:
    out, err = text_in("utf-8"), text_in("utf-8")
    with streams(out, err):
        code = code_of(words)
    assert "Traceback" not in written(err)
    return code, written(out)


@every_line
def test_letters_that_the_encoding_lacks_are_written_plainer(words: list[str]) -> None:
    out, err = text_in("ascii"), text_in("ascii")
    with streams(out, err):
        code = code_of(words)
    assert "Traceback" not in written(err)
    assert code in (0, 1, 2)
    if "--json" in words and code == 0 and words[0] != "report":  # it trains: what it says differs in time
        for line in written(out).splitlines():
            json.loads(line)


def test_json_in_ascii_says_the_very_same() -> None:
    out = text_in("ascii")
    with streams(out, text_in("ascii")):
        assert code_of(["show", "1", "--json"]) == 0
    assert json.loads(written(out)) == json.loads(in_utf_8(["show", "1", "--json"])[1])
    assert json.loads(written(out))["started"]["class_names"] == list(LETTERS[:2])


def test_letters_that_the_encoding_has_stay_as_they_are() -> None:
    out = text_in("iso-8859-1")
    with streams(out, text_in("iso-8859-1")):
        assert code_of(["show", "1"]) == 0
    assert "été - ×" in written(out)
    assert "\\u65e5" in written(out)


def test_columns_stay_aligned_in_plainer_letters() -> None:
    out = text_in("ascii")
    with streams(out, text_in("ascii")):
        assert code_of(["show", "1"]) == 0
    table = written(out).partition("CLASS")[2].splitlines()[1:]
    assert {line.index(" %  ") for line in table} == {table[0].index(" %  ")}
    assert table[0].startswith("\\u65e5\\u672c ")
    assert table[1].startswith("\\xe9t\\xe9 - x ")


def full() -> int:
    return os.open("/dev/full", os.O_WRONLY)


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def buffered(number: int) -> TextIO:
    """As standard output is where it is no terminal: the last write alone may fail."""
    return open(number, "w", encoding="utf-8")


def unbuffered(number: int) -> io.TextIOWrapper:
    """Each write fails."""
    return io.TextIOWrapper(io.FileIO(number, "w"), encoding="utf-8", write_through=True)


def silent(words: list[str]) -> bool:
    """Whether the command writes nothing to standard output, be it as it failed."""
    return in_utf_8(words)[1] == ""


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")


@needs_full
@every_line
def test_a_full_disk_is_one_sentence(words: list[str]) -> None:
    expected = "" if silent(words) else "reslab: cannot write to standard output (No space left on device)"
    for stream in (buffered(full()), unbuffered(full())):
        err = text_in("utf-8")
        with stream, streams(stream, err):
            code = code_of(words)
        assert "Traceback" not in written(err)
        if expected:
            assert code == 1 if words[0] != "show" else code in (1, 2)
            assert written(err).count(expected) == 1


@every_line
def test_a_reader_that_leaves_is_no_error(words: list[str]) -> None:
    code, text = in_utf_8(words)
    for stream in (buffered(closed_pipe()), unbuffered(closed_pipe())):
        err = text_in("utf-8")
        with stream, streams(stream, err):
            found = code_of(words)
        assert found == code or (found == 0 and text)
        assert "Traceback" not in written(err)
        assert "pipe" not in written(err).lower()


@needs_full
@every_command
def test_standard_error_that_cannot_be_written_is_no_error(words: list[str]) -> None:
    code, text = in_utf_8(words)
    for make in (full, closed_pipe):
        out, err = text_in("utf-8"), buffered(make())
        with err, streams(out, err):
            assert code_of(words) == code
        assert bool(written(out)) == bool(text)


@every_command
def test_streams_that_are_closed_are_no_error(words: list[str]) -> None:
    code, _ = in_utf_8(words)
    with streams(None, None):
        assert code_of(words) == code


@pytest.mark.parametrize("option", ["--home", "--data-dir", "RESLAB_CACHE"])
@every_command
def test_a_folder_that_is_a_file_is_a_sentence(
    words: list[str], option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    if option.startswith("--"):
        words = [*words, option, str(tmp_path / "file")]
    else:
        monkeypatch.setenv(option, str(tmp_path / "file"))
    err = text_in("utf-8")
    with streams(text_in("utf-8"), err):
        code_of(words)
    assert "Traceback" not in written(err)
    assert "Errno" not in written(err) or "cannot use the database of runs" in written(err)
    if option == "--home" and words[0] in ("runs", "show", "train"):
        assert "cannot use" in written(err)
        assert "--home" in written(err)


# --- runs ------------------------------------------------------------------------------------------------------------


def statuses() -> list[str]:
    with Store(find_folders().database) as store:
        return [record.status for record in store.runs()]


@pytest.mark.parametrize("which", ["out", "err", "both"])
@pytest.mark.parametrize("more", [[], ["--json"], ["--seeds", "2"]], ids=["bar", "json", "two"])
def test_a_closed_pipe_ends_no_run(which: str, more: list[str]) -> None:
    out = text_in("utf-8") if which == "err" else unbuffered(closed_pipe())
    err = text_in("utf-8") if which == "out" else unbuffered(closed_pipe())
    with streams(out, err):
        assert code_of(["train", "digits", "resnet20", "--epochs", "1", *more]) == 0
    assert statuses() == ["completed"] * (3 if "--seeds" in more else 2)
    if which == "err":
        assert "run_ended" in written(out) if "--json" in more else "accuracy" in written(out)  # what is left arrives


@needs_full
def test_a_run_whose_output_finds_no_room_goes_to_its_end_and_says_so() -> None:
    err = text_in("utf-8")
    with streams(unbuffered(full()), err):
        assert code_of(["train", "digits", "resnet20", "--json"]) == 1
    assert statuses() == ["completed"] * 2
    assert written(err).count("cannot write to standard output") == 1


def test_a_terminal_that_is_gone_ends_a_run_as_a_hang_up_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every terminal sends a hang-up: the write that fails is all there is."""
    asked: list[str | None] = []

    def run(job: Job, folders: Folders, trainer: Any, control: Any) -> Iterator[Event]:
        yield started(job.spec, 2)
        asked.append(control.stop_reason)
        yield RunEnded(2, "stopped", None, None, 1.0, None, 0, control.stop_reason)

    monkeypatch.setattr("engine.launch.recording.record_events", run)

    class Gone(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    with streams(Gone(), text_in("utf-8")):
        assert code_of(["train", "digits", "resnet20", "--json"]) == 130
    assert asked == ["cut off: the terminal went away"]


# --- the parts -------------------------------------------------------------------------------------------------------


def test_an_output_says_once_that_it_is_lost_and_takes_the_rest() -> None:
    stream = Output(unbuffered(closed_pipe()), "standard output", raises=True)
    with pytest.raises(OutputError) as lost:
        stream.write("a")
    assert lost.value.reader_left
    stream.write("b")
    stream.flush()
    with pytest.raises(OutputError):
        stream.finish()


def test_streams_are_as_before_after_a_command() -> None:
    before = sys.stdout, sys.stderr
    with standard_streams():
        assert sys.stdout is not before[0]
        assert not output.terminal_is_gone()
    assert (sys.stdout, sys.stderr) == before


def test_control_pictures_become_carets_and_the_rest_escapes() -> None:
    with streams(text_in("ascii"), None):
        assert printable("␛[2J ␡ … − 日") == "^[[2J ^? ~ - \\u65e5"
        assert printable("plain") == "plain"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied", "HOME/3"), ("HOME/3", "access to it", "--home")),
        (OSError(28, "No space left on device", "CACHE/x"), ("CACHE/x", "free some space", "RESLAB_CACHE")),
        (FileNotFoundError(2, "No such file or directory", "DATA/mnist"), ("DATA/mnist", "--data-dir")),
        (PermissionError(13, "Permission denied", b"/photos/cat"), ("/photos/cat", "Permission denied")),
        (OSError(28, "No space left on device"), ("No space left on device", "free some space")),
        (OSError("nothing more is known"), ("nothing more is known",)),
    ],
)
def test_what_the_system_refuses_names_path_and_setting(
    error: OSError, says: tuple[str, ...], folders: Folders
) -> None:
    named = {"HOME": folders.home, "CACHE": folders.cache, "DATA": folders.data}
    for name, folder in named.items():
        if isinstance(error.filename, str):
            error.filename = error.filename.replace(name, str(folder))
        says = tuple(text.replace(name, str(folder)) if text.startswith(f"{name}/") else text for text in says)
    text = describe_failure(error, folders, "a test")
    assert all(part in text for part in says), text
    assert "Errno" not in text
    assert "Error" not in text
    assert text.endswith(f"the full report is in {folders.log}")
    assert "--- " in folders.log.read_text(encoding="utf-8")


def test_without_a_log_no_report_is_promised(folders: Folders) -> None:
    nowhere = Folders(Path("/dev/null/home"), folders.data, folders.cache)
    assert "the full report" not in describe_failure(ValueError("odd"), nowhere, "a test")


# --- datasets --------------------------------------------------------------------------------------------------------


def make_classes(root: Path) -> Path:
    for number, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(4):
            Image.new("L", (8, 8), 40 * number + index).save(root / name / f"{index}.png")
    return root


def load(spec: RunSpec, folders: Folders) -> None:
    from engine.control import RunControl
    from engine.data.loading import load_dataset

    for _ in load_dataset(spec, folders, RunControl()):
        pass


def test_a_class_folder_that_cannot_be_read_is_a_sentence(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_classes(tmp_path / "pets")
    listed = os.listdir

    def refuse(path: Any = ".") -> list[str]:
        if Path(path).name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "listdir", refuse)  # what pathlib calls; root may read everything
    scanned = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path=".": (refuse(path), scanned(path))[1])
    with pytest.raises(DatasetError, match=r"cannot (use|read) .*dog .*Permission denied"):
        load(RunSpec(f"folder:{root}", "resnet20"), folders)


@pytest.mark.parametrize("way", ["a file", "no room"])
def test_a_cache_that_cannot_be_written_names_its_setting(
    way: str, tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_classes(tmp_path / "pets")
    if way == "a file":
        folders.cache.parent.mkdir(parents=True, exist_ok=True)
        folders.cache.touch()
    else:

        def no_room(number: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("engine.data.cache.os.fsync", no_room)
    with pytest.raises(DatasetError) as refused:
        load(RunSpec(f"folder:{root}", "resnet20"), folders)
    assert str(folders.cache) in str(refused.value)
    assert "RESLAB_CACHE" in str(refused.value)


def test_a_bound_that_is_no_number_is_a_sentence(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESLAB_CACHE_GIB", "much")
    with pytest.raises(SpecError, match="RESLAB_CACHE_GIB: 'much' is not valid"):
        load(RunSpec(f"folder:{make_classes(tmp_path / 'pets')}", "resnet20"), folders)


# --- processes -------------------------------------------------------------------------------------------------------

SHELL = {
    "full disk": "{reslab} runs > /dev/full",
    "closed pipe": "{reslab} models --json | true",
    "closed output": "{reslab} runs >&-",
    "closed error": "{reslab} show 99 2>&-",
    "all closed": "{reslab} models <&- >&- 2>&-",
    "the app, closed input": "{reslab} <&-",
    "the app, all closed": "{reslab} <&- >&- 2>&-",
    "ascii": "PYTHONIOENCODING=ascii {reslab} show 1",
    "latin 1": "PYTHONIOENCODING=iso-8859-1 {reslab} show 1",
    "locale C": "LC_ALL=C {reslab} show 1",
    "locale latin 1": "LC_ALL=en_US.ISO-8859-1 {reslab} runs",
    "no coercion": "LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {reslab} show 1",
}


@needs_full
@pytest.mark.slow
@pytest.mark.parametrize("line", SHELL.values(), ids=SHELL.keys())
def test_a_shell_never_sees_a_traceback(line: str) -> None:
    done = subprocess.run(
        ["bash", "-c", line.format(reslab=f"{sys.executable} -m tui")], capture_output=True, check=False, cwd="."
    )
    for text in (done.stdout, done.stderr):
        assert b"Traceback" not in text
        assert b"Exception ignored" not in text
        assert b"Error" not in text


@pytest.mark.slow
@pytest.mark.parametrize("line", ["{reslab} --json | head -3", "{reslab} 2>&1 | head -2", "{reslab} | true"])
def test_a_training_piped_into_head_completes(line: str) -> None:
    command = f"{sys.executable} -m tui train digits resnet20 --epochs 2"
    done = subprocess.run(["bash", "-c", line.format(reslab=command)], capture_output=True, check=False, text=True)
    assert statuses() == ["completed"] * 2
    assert "Traceback" not in done.stderr + done.stdout
    assert "roken" not in done.stderr + done.stdout
