"""Tables of paths and labels: every row is an image of the dataset, or is left out with a reason."""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.catalog.datasets import absolute_dataset
from engine.columns import choose_columns, parse_columns
from engine.control import RunControl
from engine.data.loading import data_key
from engine.data.survey import survey_now
from engine.data.table import sorted_labels
from engine.errors import DatasetError, SpecError
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.engine.test_archives import folders, load, packed
from tests.engine.test_folders import picture, pictures
from tests.fakes import drain

__all__ = ["folders"]


def table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


def flat(root: Path, number: int) -> list[str]:
    """So many different images in one folder, as paths relative to `root`."""
    return [str(picture(root / "images" / f"{n}.png", n).relative_to(root)) for n in range(number)]


@pytest.mark.parametrize(
    ("name", "delimiter", "header"),
    [
        ("set.csv", ",", ("image_path", "label", "split")),
        ("set.csv", ";", ("Filename", "Class", "Set")),
        ("set.TSV", "\t", ("file", "target", "Subset")),
        ("set.csv", "|", ("Image", "category", "fold")),
    ],
)
def test_a_table_is_the_folder_that_it_describes(
    name: str, delimiter: str, header: Sequence[str], tmp_path: Path, folders: Folders
) -> None:
    root = pictures(
        tmp_path / "mine", {"train/a": 3, "train/b": 3, "valid/a": 1, "valid/b": 2, "test/a": 1, "test/b": 2}
    )
    rows = [(path.relative_to(root), path.parent.name, path.parent.parent.name) for path in sorted(root.rglob("*.png"))]
    set_file = table(root / name, header, rows, delimiter)
    data, plain = load(absolute_dataset(str(set_file)), folders), load(f"folder:{root}", folders)
    assert data.test_sha256 == plain.test_sha256
    assert data.class_names == plain.class_names == ("a", "b")
    assert {(r.file, r.class_name, r.split) for r in data.manifest} == {
        (r.file, r.class_name, r.split) for r in plain.manifest
    } - {(name, "", "unusable")}
    assert data.notes[0].startswith(f"columns: path from {header[0]}, label from {header[1]}, split from {header[2]}")
    found = survey_now(RunSpec(f"csv:{set_file}", "resnet20"), folders)
    assert (found.num_train, found.num_val, found.num_test) == (6, 3, 3)


def test_without_parts_it_is_split_as_a_folder_is(tmp_path: Path, folders: Folders) -> None:
    root = pictures(tmp_path / "mine", {"a": 10, "b": 10})
    rows = [(path.relative_to(root), path.parent.name) for path in sorted(root.rglob("*.png"))]
    one = load(f"csv:{table(root / 'set.csv', ('path', 'label'), rows)}", folders, test_share=0.3, val_share=0.2)
    other = load(f"folder:{root}", folders, test_share=0.3, val_share=0.2)
    assert (one.test_sha256, one.train_sha256) == (other.test_sha256, other.train_sha256)


@pytest.mark.parametrize("other", ["val", "test", "dev"])
def test_a_single_other_part_is_the_test_set_and_that_is_said(other: str, tmp_path: Path, folders: Folders) -> None:
    files = flat(tmp_path, 8)
    rows = [(file, n % 2, "train" if n < 6 else other) for n, file in enumerate(files)]
    data = load(f"csv:{table(tmp_path / 'set.csv', ('path', 'label', 'split'), rows)}", folders)
    assert (len(data.train), data.val, len(data.test)) == (6, None, 2)
    assert f"{'val' if other == 'dev' else other} → test" in data.notes[1]


def test_every_row_that_is_left_out_is_listed_with_its_reason(tmp_path: Path, folders: Folders) -> None:
    files = flat(tmp_path, 12)
    (tmp_path / "broken.png").write_bytes((tmp_path / files[0]).read_bytes()[:60])
    rows = [(file, "ab"[n % 2], "test" if n > 5 else "train") for n, file in enumerate(files)]
    rows += [("gone.png", "a", "train"), ("images", "a", "train"), ("", "a", "train"), (files[0], "", "train"),
             ("broken.png", "a", "train"), (files[1], "b", "sometime"), (files[2], "a", "train"),
             (files[3], "a", "train"), (files[4], "a", "test")]  # fmt: skip
    data = load(f"csv:{table(tmp_path / 'set.csv', ('path', 'label', 'split'), rows)}", folders)
    reasons = Counter((r.problem or "").split(" (")[0] for r in data.manifest if r.split == "unusable")
    assert reasons == {"missing": 1, "not a file": 1, "no path": 1, "no label": 1, "damaged": 1, "unknown part": 1,
                       "listed again": 1, "listed with several labels": 2, "listed in several parts": 2}  # fmt: skip
    assert "listed with several labels (a, b)" in {record.problem for record in data.manifest}
    assert len(data.manifest) == len(rows)
    assert len(data.train) + len(data.test) == 10


def test_numeric_labels_sort_as_numbers_and_texts_as_texts(tmp_path: Path, folders: Folders) -> None:
    files = flat(tmp_path, 6)
    rows = [(file, label) for file, label in zip(files, ("10", "9", "2") * 2, strict=True)]
    assert load(f"csv:{table(tmp_path / 'set.csv', ('path', 'label'), rows)}", folders).class_names == ("2", "9", "10")
    assert sorted_labels(["-1", "1.5", "1"]) == ("-1", "1", "1.5")
    assert sorted_labels(["10", "9", "b"]) == ("10", "9", "b")


def test_columns_can_be_named(tmp_path: Path, folders: Folders) -> None:
    files = flat(tmp_path, 8)
    header = ("path", "where", "kind", "cv")
    rows = [("nonsense", file, n % 2, "train" if n < 4 else "test") for n, file in enumerate(files)]
    name = f"csv:{table(tmp_path / 'set.csv', header, rows)}"
    with pytest.raises(DatasetError, match=r"none of which is known as the label; name them: --columns path="):
        load(name, folders)
    assert len(load(name, folders, columns="path=where, label=kind, split=cv").test) == 4
    assert len(load(name, folders, columns="path=where,label=kind", test_share=0.25).test) == 2
    with pytest.raises(DatasetError, match="but not when; correct columns"):
        load(name, folders, columns="path=when,label=kind")
    for wrong in ("path=where", "where,kind", "path=a,label=b,weight=c", "path=,label=b", ""):
        with pytest.raises(SpecError, match=r"columns: .* is not valid; expected auto, or for example path="):
            RunSpec("digits", "resnet20", columns=wrong)
    assert parse_columns(" auto ") is None
    assert choose_columns(["img path", "CLASS"], "auto", "x").path == "img path"


def test_absolute_paths_backslashes_and_other_folders_are_read(tmp_path: Path, folders: Folders) -> None:
    files = flat(tmp_path, 8)
    place = tmp_path / "tables"
    place.mkdir()
    shown = [
        tmp_path / files[0],
        f"../{files[1]}",
        "..\\" + files[2].replace("/", "\\"),
        *(f"../{f}" for f in files[3:]),
    ]
    rows = [(file, n % 2) for n, file in enumerate(shown)]
    data = load(f"csv:{table(place / 'set.csv', ('path', 'label'), rows)}", folders)
    assert [record.file for record in data.manifest] == [str(tmp_path / file) for file in files]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty; expected a header"),
        (b"path,label\n", "has no row; expected one row an image"),
        (b"a,b,c\n1,2,3\n", "has the columns a, b, c, none of which is known as the path"),
        (b"path,label\nno.png,1\n", r"no row of .*set.csv is usable; the first names no.png: missing"),
        (b"path,label,fold\n0.png,a,1\n1.png,b,2\n", r"the first names 0.png: unknown part \(1\)"),
        (b"path,label\n0.png,a\n1.png,a\n", "has one label, a, for all its images"),
        (b"path,label,split\n0.png,a,test\n1.png,b,val\n", "no training part"),
        (b"path,label,split\n0.png,a,train\n1.png,b,test\n", "no usable training row of b, which another part has"),
        (b"path,label\n" + b"x" * 200_000 + b",1\n", "cannot read .* as a table .*field larger than field limit"),
        (b"\xff\xfep\x00a\x00", "none of which is known as the path"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "none of which is known as the path"),
        (b"path,label\n\x000.png,a\n", "is usable|one label"),
    ],
)
def test_a_table_that_is_none_is_refused_in_a_sentence(
    content: bytes, says: str, tmp_path: Path, folders: Folders
) -> None:
    for n in range(2):
        picture(tmp_path / f"{n}.png", n)
    (tmp_path / "set.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=says) as refused:
        load(f"csv:{tmp_path}/set.csv", folders)
    assert "\n" not in str(refused.value)
    with pytest.raises(DatasetError, match="no file"):
        load(f"csv:{tmp_path}/none.csv", folders)


def test_excels_tables_are_read(tmp_path: Path, folders: Folders) -> None:
    rows = "".join(f"{file}\t{'äb'[n % 2]}\n" for n, file in enumerate(flat(tmp_path, 4)))
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "set.csv").write_text(f"path\tlabel\n{rows}", encoding=encoding)
        assert load(f"csv:{tmp_path}/set.csv", folders).class_names == ("b", "ä")


def test_a_validation_part_and_a_share_for_validation_exclude_each_other(tmp_path: Path, folders: Folders) -> None:
    rows = [(file, n % 2, ("train", "val", "test")[n // 2]) for n, file in enumerate(flat(tmp_path, 6))]
    with pytest.raises(DatasetError, match="has a validation part of its own, val; set val share to 0"):
        load(f"csv:{table(tmp_path / 'set.csv', ('path', 'label', 'split'), rows)}", folders, val_share=0.2)


def test_a_changed_image_is_noticed(tmp_path: Path, folders: Folders) -> None:
    rows = [(file, n % 2) for n, file in enumerate(flat(tmp_path, 4))]
    spec = RunSpec(f"csv:{table(tmp_path / 'set.csv', ('path', 'label'), rows)}", "resnet20")
    before = data_key(spec)
    assert data_key(spec) == before
    picture(tmp_path / "images/0.png", 9, (9, 9))
    assert data_key(spec) != before
    assert data_key(spec.replace(columns="path=path,label=label")) != data_key(spec)


@pytest.mark.parametrize("ending", [".zip", ".tgz"])
def test_an_archive_with_a_table_is_that_table(ending: str, tmp_path: Path, folders: Folders) -> None:
    rows = [(file, n % 2) for n, file in enumerate(flat(tmp_path / "mine", 8))]
    table(tmp_path / "mine" / "set.csv", ("path", "label"), rows)
    archive = packed(tmp_path / "mine", tmp_path / f"set{ending}", "top")
    assert absolute_dataset(str(archive)) == f"csv:{archive}"
    assert len(load(f"csv:{archive}", folders).manifest) == 8
    other = packed(pictures(tmp_path / "other", {"a": 2, "b": 2}), tmp_path / f"other{ending}")
    assert absolute_dataset(str(other)) == f"folder:{other}"
    with pytest.raises(DatasetError, match=f"{other} has none; expected one table"):
        load(f"csv:{other}", folders)


def test_a_parquet_table_is_read_where_pyarrow_is(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    files = flat(tmp_path, 8)
    columns = {
        "path": files,
        "bytes": [b"x"] * 8,
        "label": [10, 9] * 4,
        "split": (["train"] * 5 + [None]) + ["test"] * 2,
    }
    parquet.write_table(arrow.table(columns), tmp_path / "set.parquet")
    data = load(absolute_dataset(f"{tmp_path}/set.parquet"), folders)
    assert (data.class_names, len(data.train), len(data.test)) == (("9", "10"), 5, 2)
    assert [record.problem for record in data.manifest if record.problem] == ["unknown part (none given)"]
    (tmp_path / "set.parquet").write_bytes(b"PAR1 and rubbish")
    with pytest.raises(DatasetError, match=r"cannot read .* as a table"):
        load(f"csv:{tmp_path}/set.parquet", folders)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DatasetError, match="needs pyarrow, which is not installed"):
        load(f"csv:{tmp_path}/set.parquet", folders)


def test_listing_a_table_hears_a_stop(tmp_path: Path, folders: Folders) -> None:
    rows = [(file, n % 2) for n, file in enumerate(flat(tmp_path, 4))]
    control = RunControl()
    control.stop()
    spec = RunSpec(f"csv:{table(tmp_path / 'set.csv', ('path', 'label'), rows)}", "resnet20")
    with pytest.raises(LoadingStopped):
        drain(spec_survey(spec, folders, control))


def spec_survey(spec: RunSpec, folders: Folders, control: RunControl):  # type: ignore[no-untyped-def]
    from engine.data.survey import survey

    return survey(spec, folders, control)
