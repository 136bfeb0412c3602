"""Tables in columns are the sequences of values that they stand for."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.data.columns import FactTable, FileFacts, FileTable, ManifestTable, Paths, Texts, WithVal, texts_of
from engine.data.duplicates import groups_of
from engine.data.layout import ImageFile
from engine.data.manifest import FileRecord, unused, write_manifest

ROOT = Path("/pictures")
FILES = [
    ImageFile(ROOT / "a" / "1.png", 0, "train"),
    ImageFile(ROOT / "b" / "deep" / "\udcff.jpg", 1, "train"),  # a name that is no UTF-8
    ImageFile(ROOT / "b" / "ü 2.png", 1, "test"),
    ImageFile(ROOT / "c.png", 0),
]


@given(st.lists(st.text(max_size=5)))
def test_texts_are_a_list_of_texts(texts: list[str]) -> None:
    table = Texts(texts)
    assert list(table) == texts
    assert table[1:3] == texts[1:3]
    assert [table[number - len(texts)] for number in range(len(texts))] == texts
    with pytest.raises(IndexError):
        table[len(texts)]


def test_files_are_a_list_of_files() -> None:
    table = FileTable.of(ROOT, FILES)
    assert table == FILES
    assert FileTable.of(ROOT, table) is table
    assert table.labels.tolist() == [0, 1, 1, 0]
    assert table.given.tolist() == ["train", "train", "test", ""]
    assert list(texts_of(table.paths)) == [str(path) for path in table.paths] == [str(file.path) for file in FILES]
    table.add("/elsewhere/1.png", 0)  # as a table may name it
    assert (table.names[4], table[4].path) == ("/elsewhere/1.png", Path("/elsewhere/1.png"))
    assert list(texts_of(table.paths))[4] == "/elsewhere/1.png"


@pytest.mark.parametrize("root", [Path("."), Path("/"), Path("a/b"), Path("/a")])
def test_paths_as_texts_are_those_of_the_paths(root: Path) -> None:
    """The cache's keys are made of them."""
    paths = Paths(root, ["c/1.png", "2.png"])
    assert list(texts_of(paths)) == list(texts_of(list(paths))) == [str(path) for path in paths]


def test_facts_are_a_list_of_facts() -> None:
    facts = [
        FileFacts(hashlib.sha256(b"1").hexdigest(), None),
        FileFacts("", "no image"),
        FileFacts("00" * 31 + "01", "x"),
    ]
    table = FactTable()
    for fact in facts:
        table.add(fact.sha256, fact.problem)
    assert table == facts
    assert table.usable.tolist() == [0]
    assert FactTable.of(table.hashes.tobytes(), table.problems) == facts
    with pytest.raises(ValueError, match="not the hashes"):
        FactTable.of(bytes(33), {})
    with pytest.raises(ValueError, match="not the hashes"):
        FactTable.of(bytes(32), {1: "no image"})


_BYTES = st.builds(lambda start, end: start + bytes(32 - len(start) - len(end)) + end, *[st.binary(max_size=2)] * 2)


@given(st.lists(_BYTES.filter(any), min_size=1))
def test_hashes_sort_and_compare_as_their_digits(hashes: list[bytes]) -> None:
    """The order of the groups decides a split, so it must stay what it was when hashes were texts."""
    table = FactTable.of(b"".join(hashes), {})
    assert groups_of(table.hashes).tolist() == groups_of(np.array([found.hex() for found in hashes])).tolist()


def test_a_manifest_is_a_list_of_records(tmp_path: Path) -> None:
    facts = FactTable()
    for number in range(4):
        facts.add(f"{number + 1:064x}", "damaged (cut)" if number == 1 else None)
    left_out = [unused("Thumbs.db", "", "system file")]
    parts = np.array(["train", "test", "train"])
    table = ManifestTable.build(FileTable.of(ROOT, FILES), facts, ("ant", "bee"), parts, left_out)
    records = [
        FileRecord("a/1.png", f"{1:064x}", "ant", "train", None),
        FileRecord("b/deep/\udcff.jpg", f"{2:064x}", "bee", "unusable", "damaged (cut)"),
        FileRecord("b/ü 2.png", f"{3:064x}", "bee", "test", None),
        FileRecord("c.png", f"{4:064x}", "ant", "train", None),
        *left_out,
    ]
    assert table == records
    assert list(WithVal.of(table, np.array([1]))) == list(WithVal.of(records, np.array([1])))
    assert [record.split for record in WithVal.of(table, np.array([1]))] == [
        "train",
        "unusable",
        "test",
        "val",
        "unusable",
    ]
    write_manifest(tmp_path / "one.csv", table)
    assert (tmp_path / "one.csv").read_text(encoding="utf-8").splitlines() == [
        "file,sha256,class_name,split,problem",
        f"b/deep/\N{REPLACEMENT CHARACTER}.jpg,{2:064x},bee,unusable,damaged (cut)",
        "Thumbs.db,,,unusable,system file",
        f"a/1.png,{1:064x},ant,train,",
        f"b/ü 2.png,{3:064x},bee,test,",
        f"c.png,{4:064x},ant,train,",
    ]
