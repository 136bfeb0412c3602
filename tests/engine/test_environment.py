"""reslab's environment variables: checked at the start, shown by the doctor, all of them in the README."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.cli import main
from engine.environment import CACHE_GIB, MEMORY_GIB, TUNE, VARIABLES, is_on, number_of
from engine.paths import Folders

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("RESLAB_CACHE_GIB", "abc", "expected GiB of at least 0"),
        ("RESLAB_CACHE_GIB", "-1", "expected GiB of at least 0"),
        ("RESLAB_CACHE_GIB", "nan", "expected GiB of at least 0"),
        ("RESLAB_MEMORY_GIB", "0", "expected GiB above 0"),
        ("RESLAB_MEMORY_GIB", "inf", "expected GiB above 0"),
        ("RESLAB_TUNE", "no", "expected 0 or 1"),
        ("RESLAB_GRAPH", "2", "expected 0 or 1"),
    ],
)
def test_a_slip_is_said_before_anything_is_done(
    folders: Folders,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    expected: str,
) -> None:
    monkeypatch.setenv(name, text)
    assert main(["train", "digits", "resnet20", "--home", str(folders.home)], lambda opening: 0) == 2
    said = capsys.readouterr().err
    assert said == f"reslab: {name}: {text!r} is not valid; {expected}" + said[said.index(expected) + len(expected) :]
    assert not folders.database.exists()
    assert main(["doctor", "--home", str(folders.home)], lambda opening: 0) == 1
    assert f"NOT OK  {name}" in capsys.readouterr().out


def test_the_doctor_shows_what_is_set_and_what_is_no_variable(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RESLAB_MEMORY_GIB", "6.5")
    monkeypatch.setenv("RESLAB_CACHE_GB", "4")
    assert main(["doctor", "--home", str(folders.home)], lambda opening: 0) == 1
    shown = capsys.readouterr().out
    assert "6.5: GiB to hold on the training device" in shown
    assert re.search("NOT OK +RESLAB_CACHE_GB +unknown variable; known: RESLAB_CACHE, ", shown)


def test_unset_and_blank_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (CACHE_GIB, MEMORY_GIB, TUNE):
        monkeypatch.delenv(variable.name, raising=False)
    assert (number_of(CACHE_GIB), is_on(TUNE)) == (None, True)
    monkeypatch.setenv("RESLAB_TUNE", " ")
    assert is_on(TUNE)
    monkeypatch.setenv("RESLAB_TUNE", "0")
    assert not is_on(TUNE)
    monkeypatch.setenv("RESLAB_MEMORY_GIB", " 6.5 ")
    assert number_of(MEMORY_GIB) == 6.5


def test_no_other_is_read_and_the_readme_names_all() -> None:
    named = {
        name
        for folder in ("engine", "tui")
        for path in (ROOT / folder).rglob("*.py")
        for name in re.findall(r"\bRESLAB_[A-Z_]+\b", path.read_text())
    }
    known = {variable.name for variable in VARIABLES}
    assert named <= known
    readme = (ROOT / "engine" / "cli" / "README.md").read_text()
    assert not [name for name in known if name not in readme]
