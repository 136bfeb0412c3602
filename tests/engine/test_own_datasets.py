"""Kinds of the user's own datasets: one row each, found by prefix or by a path alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.catalog.datasets import (
    CODE,
    DATASETS,
    KINDS,
    DatasetInfo,
    absolute_dataset,
    find_dataset,
    kind_of,
    own_path,
    short_name,
)
from engine.data.loading import data_key
from engine.data.own import own_source
from engine.errors import SpecError
from engine.spec import RunSpec
from tests.engine.test_folders import pictures


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.prefix)
def test_each_kind_is_treated_alike(kind: DatasetInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = "mine.py:load" if kind is CODE else "mine"
    name = absolute_dataset(f"{kind.prefix}{mine}")
    assert name == f"{kind.prefix}{tmp_path}/{mine}"
    assert find_dataset(name) is kind is kind_of(name)
    assert own_path(name) == tmp_path / mine
    assert short_name(name) == mine
    one, other = RunSpec(name, "resnet20"), RunSpec(f"{kind.prefix}/elsewhere/{mine}", "resnet20")
    assert one.seed_group() != other.seed_group()
    assert one.seed_group(with_path=False) == other.seed_group(with_path=False)
    before = data_key(one)
    (tmp_path / mine.partition(":")[0]).write_bytes(b"one")
    assert data_key(one) != before
    assert all(callable(getattr(own_source(name), function)) for function in ("check", "load", "survey", "state"))
    with pytest.raises(SpecError, match=f"{kind.prefix} needs a path"):
        find_dataset(f"{kind.prefix} ")


def test_a_path_alone_is_a_dataset_unless_it_has_the_name_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "photos", {"a": 1, "b": 1})
    pictures(tmp_path / "digits", {"a": 1, "b": 1})
    assert absolute_dataset("./photos") == absolute_dataset("photos") == f"folder:{tmp_path}/photos"
    assert absolute_dataset("./photos/../photos") == f"folder:{tmp_path}/photos"
    assert absolute_dataset("digits") == "digits"
    assert absolute_dataset("./digits") == f"folder:{tmp_path}/digits"
    assert absolute_dataset("neither") == "neither"
    assert absolute_dataset("") == ""
    assert all(absolute_dataset(info.name) == info.name for info in DATASETS)
