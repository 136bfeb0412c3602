"""The queue in the store: in order, reordered, and the same after a restart."""

from __future__ import annotations

import json

import pytest

from engine.combinations import are_twins, combine, with_twin
from engine.errors import SpecError
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store import queue as waiting
from engine.store.store import Store
from tests.engine.test_cli import output_of, reslab

SPECS = [RunSpec("digits", "resnet18", seed=seed) for seed in range(3)]


def test_what_waits_survives_and_comes_in_order(folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(SPECS)
    with Store(folders.database) as store:
        assert [item.spec for item in store.waiting()] == SPECS
        assert store.take_next(store.waiting()[1].number) is None  # it is not the next one
        assert [store.take_next() for _ in range(4)] == [*SPECS, None]


def test_entries_can_be_moved_and_removed(folders: Folders) -> None:
    with Store(folders.database) as store:
        store.enqueue(SPECS)
        first, second, third = (item.number for item in store.waiting())
        store.move_waiting(third, -1)
        store.move_waiting(first, -1)
        assert [item.number for item in store.waiting()] == [first, third, second]
        store.move_waiting(first, 1)
        store.remove_waiting(third)
        assert [item.number for item in store.waiting()] == [first, second]
        store.enqueue([SPECS[0].replace(seed=9)])
        assert store.waiting()[-1].spec.seed == 9


def test_two_processes_never_take_the_same_entry(folders: Folders) -> None:
    with Store(folders.database) as one, Store(folders.database) as other:
        one.enqueue(SPECS)
        taken = [one.take_next(), other.take_next(), one.take_next(), other.take_next()]
    assert taken == [*SPECS, None]


def test_combinations_are_datasets_times_models_times_seeds() -> None:
    specs = combine(["digits", "mnist"], ["resnet18", "plain18"], {"seed": 4, "epochs": 2}, num_seeds=2)
    assert [(spec.dataset, spec.model, spec.seed) for spec in specs][:3] == [
        ("digits", "resnet18", 4), ("digits", "resnet18", 5), ("digits", "plain18", 4),
    ]  # fmt: skip
    assert len(specs) == 8
    with pytest.raises(SpecError):
        combine(["digits"], ["resnet18"], {"epochs": -1})


def test_a_twin_differs_in_its_shortcuts_alone() -> None:
    for name in ("resnet18", "plain56"):
        one, other = with_twin(RunSpec("digits", name, seed=3))
        assert are_twins(one, other)
        assert are_twins(other, one)
        assert not are_twins(one, other.replace(seed=4))
    assert len(with_twin(RunSpec("digits", "resnet101"))) == 1


@pytest.mark.usefixtures("few_digits")
def test_several_specs_and_seeds_run_one_after_another(tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    for name in ("resnet20", "plain20"):
        (tmp_path / f"{name}.toml").write_text(RunSpec("digits", name, epochs=1).to_toml())
    files = [str(tmp_path / f"{name}.toml") for name in ("resnet20", "plain20")]
    assert reslab("train", "--spec", *files, "--seeds", "2", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sum(event["event"] == "run_ended" for event in events) == 4
    runs = output_of(capsys, "runs", "--json")
    assert [(run["model"], run["spec"]["seed"]) for run in reversed(runs)] == [
        ("resnet20", 0), ("resnet20", 1), ("plain20", 0), ("plain20", 1),
    ]  # fmt: skip
    assert reslab("train", "digits", "resnet18", "--seeds", "0") == 2


def test_an_entry_that_cannot_be_read_is_passed_over(folders: Folders, caplog: pytest.LogCaptureFixture) -> None:
    """Of another version, or damaged: it keeps neither the others from their turn nor the app from opening."""
    waiting._warn.cache_clear()
    with Store(folders.database) as store:
        store.enqueue(SPECS)
        first, second, third = (item.number for item in store.waiting())
        store.enqueue(SPECS)
        *more, last = (item.number for item in store.waiting()[3:])
        rubbish = ('{"model": "resnet9000"}', "{rubbish", "[]", 5)
        for number, text in zip((first, second, *more), rubbish, strict=True):
            store._db.execute("UPDATE queue SET spec = ? WHERE number = ?", (text, number))
        assert [item.number for item in store.waiting()] == [item.number for item in store.waiting()] == [third, last]
        assert store.take_next(third) == SPECS[2]
        assert store.take_next() == SPECS[2]
        assert store.take_next() is None
    assert len(caplog.records) == len(rubbish)  # said once each
