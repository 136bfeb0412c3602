"""Records that earlier versions wrote: brought up to date step by step, copied before, and as trustworthy as they were.

`layouts/N.sql` is a record of layout N with one finished run, as the version of that layout left it.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from engine.errors import StoreError
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store import migrations
from engine.store.migrations import STEPS
from engine.store.store import Store
from tests.fakes import events_of

LAYOUTS = sorted(Path(__file__).with_name("layouts").glob("*.sql"), key=lambda path: int(path.stem))


def lay_out(path: Path, script: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with sqlite3.connect(path) as old:
        old.executescript(script.read_text())


def test_there_is_a_record_of_every_earlier_layout() -> None:
    assert [int(path.stem) for path in LAYOUTS] == list(range(1, len(STEPS)))


@pytest.mark.parametrize("script", LAYOUTS, ids=lambda path: path.stem)
def test_an_earlier_record_comes_up_to_date_and_keeps_its_seal(folders: Folders, script: Path) -> None:
    lay_out(folders.database, script)
    with Store(folders.database) as store:
        details = store.details(1)
        assert RunSpec.from_mapping(details.record.spec) == RunSpec("digits", "resnet20", epochs=2)
        assert len(details.curve.losses) == 24
        assert details.weights is not None
        assert details.weights.step == 24
        assert details.intact is True
        assert len(store.waiting()) == (1 if int(script.stem) >= 2 else 0)
        number = store.create_run(RunSpec("digits", "resnet18"))
        for event in events_of(RunSpec("digits", "resnet18"), number):
            store.record(event)
        assert store.intact(number) is True


def test_what_was_tuned_before_loads_were_recorded_is_measured_again(folders: Folders) -> None:
    lay_out(folders.database, LAYOUTS[5])
    with Store(folders.database) as store:
        tuned = store.autotune_choices()["key"]
    assert (tuned.memory_format, tuned.gain, tuned.busy_cores, tuned.due) == ("channels_last", 1.25, None, True)


@pytest.mark.parametrize("script", LAYOUTS, ids=lambda path: path.stem)
def test_it_is_copied_first(folders: Folders, script: Path) -> None:
    lay_out(folders.database, script)
    Store(folders.database).close()
    copy = folders.database.with_name(f"runs.db.layout-{script.stem}")
    assert sorted(path.name for path in folders.home.iterdir()) == ["runs.db", copy.name]
    with sqlite3.connect(copy) as old:
        assert old.execute("PRAGMA user_version").fetchone() == (int(script.stem),)
        assert old.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert old.execute("SELECT COUNT(*) FROM steps").fetchone() == (4,)
    Store(folders.database).close()  # the second time there is nothing to copy
    assert len(list(folders.home.iterdir())) == 2


def test_where_the_copy_cannot_be_made_nothing_is_changed(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(folders.database, LAYOUTS[-1])
    before = folders.database.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.store.migrations.os.replace", full)
    with pytest.raises(StoreError, match="No space left on device"):
        Store(folders.database)
    assert folders.database.read_bytes() == before
    assert list(folders.home.iterdir()) == [folders.database]


def test_one_that_another_connection_brought_up_to_date_meanwhile_is_not_copied(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(folders.database).close()
    versions = iter([0, len(STEPS)])  # it looks, waits for the other one, and looks again
    monkeypatch.setattr("engine.store.migrations.version_of", lambda connection: next(versions))
    Store(folders.database).close()
    assert list(folders.home.iterdir()) == [folders.database]


def test_the_copy_leaves_this_process_its_locks(folders: Folders) -> None:
    """To close a file drops every POSIX lock that the process has on it, whoever took it."""
    lay_out(folders.database, LAYOUTS[0])
    with closing(sqlite3.connect(folders.database, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        migrations._back_up(folders.database, folders.home / "copy")
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
        other = subprocess.run(
            (sys.executable, "-c", script, folders.database), capture_output=True, text=True, check=False
        )
    assert "database is locked" in other.stderr
