"""Images left out by hash: which, said where, the same when resumed; what is no list is refused in a sentence."""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.analysis.comparison import compare
from engine.control import RunControl
from engine.data.images import ImageData
from engine.data.loading import data_key, load_dataset
from engine.data.manifest import MANIFEST_NAME
from engine.errors import DatasetError
from engine.events import RunStarted, StepsCompleted
from engine.lab import Lab
from engine.paths import Folders
from engine.records import Predictions
from engine.spec import RunSpec
from tests.engine.test_audit import reencode, scenes
from tests.engine.test_cli import output_of, reslab
from tests.fakes import drain
from tests.running import run_until


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(spec: RunSpec, folders: Folders) -> ImageData:
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return scenes(tmp_path / "images", {"train/a": 8, "train/b": 8, "test/a": 4, "test/b": 4})


@pytest.fixture
def listed(root: Path, tmp_path: Path) -> Path:
    """Two training images and one test image, as sha256sum would write them, and one hash of no image."""
    lines = [f"{sha256_of(root / name)}  {name}" for name in ("train/a/1.png", "train/b/2.png")]
    lines += ["# seen twice", "", f"{sha256_of(root / 'test/a/0.png').upper()} # a comment", "0" * 64]
    file = tmp_path / "leave.txt"
    file.write_text("\n".join(lines))
    return file


def spec_of(root: Path, listed: Path | None, **settings: Any) -> RunSpec:
    chosen = {"image_size": 32, "epochs": 1, "batch_size": 4, "dtype": "float32", **settings}
    return RunSpec(f"folder:{root}", "resnet20", exclude=None if listed is None else str(listed), **chosen)


def test_listed_files_are_left_out_of_each_part_and_the_others_stay_where_they_were(
    root: Path, listed: Path, folders: Folders
) -> None:
    whole, rest = (load(spec_of(root, file), folders) for file in (None, listed))
    assert (len(rest.train), len(rest.test)) == (14, 7)
    kept = [row for row, record in enumerate(_of(whole, "train")) if record not in ("train/a/1.png", "train/b/2.png")]
    assert torch.equal(rest.train.take(torch.arange(14)).images, whole.train.take(torch.tensor(kept)).images)
    assert _of(rest, "test") == [name for name in _of(whole, "test") if name != "test/a/0.png"]
    assert {(record.file, record.problem) for record in rest.manifest if record.problem} == {
        ("train/a/1.png", "excluded (train)"), ("train/b/2.png", "excluded (train)"),
        ("test/a/0.png", "excluded (test)"),
    }  # fmt: skip
    assert f"left out by {listed}: 2 training, 1 test images; 1 hash in it match no image" in rest.notes
    assert whole.train_sha256 != rest.train_sha256
    assert whole.mean != rest.mean


def _of(data: ImageData, part: str) -> list[str]:
    return [record.file for record in data.manifest if record.split == part]


def test_the_splits_do_not_move_when_an_image_is_left_out(tmp_path: Path, folders: Folders) -> None:
    root = scenes(tmp_path / "images", {"a": 20, "b": 20})
    settings = {"test_share": 0.25, "val_share": 0.2, "split_seed": 3}
    whole = load(spec_of(root, None, **settings), folders)
    gone = {_of(whole, part)[0] for part in ("train", "val", "test")}
    file = tmp_path / "leave.txt"
    file.write_text("\n".join(sha256_of(root / name) for name in gone))
    rest = load(spec_of(root, file, **settings), folders)
    for part in ("train", "val", "test"):
        assert _of(rest, part) == [name for name in _of(whole, part) if name not in gone]
    assert any("1 training, 1 validation, 1 test images" in note for note in rest.notes)


@pytest.mark.parametrize("image_size", [None, 4])
def test_images_without_files_are_named_by_their_pixels_at_any_size(
    tmp_path: Path, folders: Folders, image_size: int | None
) -> None:
    native = load(RunSpec("digits", "resnet20"), folders)
    pixels = [native.train.images[5].numpy().tobytes(), native.test.images[3].numpy().tobytes()]
    file = tmp_path / "leave.txt"
    file.write_text("\n".join(hashlib.sha256(image).hexdigest() for image in pixels))
    spec = RunSpec("digits", "resnet20", image_size=image_size)
    whole, rest = load(spec, folders), load(spec.replace(exclude=str(file)), folders)
    assert torch.equal(rest.train.images, torch.cat([whole.train.images[:5], whole.train.images[6:]]))
    assert torch.equal(rest.test.labels, torch.cat([whole.test.labels[:3], whole.test.labels[4:]]))


def test_notes_on_shared_images_are_those_of_the_images_that_are_left(
    root: Path, tmp_path: Path, folders: Folders
) -> None:
    (root / "train/b/twin.png").write_bytes((root / "test/a/0.png").read_bytes())
    whole = load(spec_of(root, None), folders)
    assert whole.shared == {"train and test": 1}
    assert {"1 image is in both train and test", "1 image is in more than one class"} <= set(whole.notes)
    file = tmp_path / "leave.txt"
    file.write_text(sha256_of(root / "test/a/0.png"))
    rest = load(spec_of(root, file), folders)
    assert rest.shared == {}
    assert [note for note in rest.notes if "image is in" in note] == []


def test_a_changed_list_is_another_dataset_to_what_is_held_in_memory(root: Path, listed: Path) -> None:
    before = data_key(spec_of(root, listed))
    listed.write_text(listed.read_text() + "\n# only a comment")
    assert data_key(spec_of(root, listed)) == before
    listed.write_text("1" * 64)
    assert data_key(spec_of(root, listed)) != before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot read .*leave.txt .No such file or directory.; expected a text file with one SHA-256 a line"),
        ("a/1.png", "line 1 of .*leave.txt begins with 'a/1.png'; expected the SHA-256 of an image"),
        (f"# fine\n{'0' * 63}", "line 2 of .* begins with '00000000000000000000'"),
        ("\x1b[2J", "line 1 of "),
    ],
)
def test_what_is_no_list_is_refused_before_a_run_is_recorded(
    content: str | None, words: str, root: Path, tmp_path: Path, folders: Folders
) -> None:
    file = tmp_path / "leave.txt"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DatasetError, match=words):
        Lab(folders).train(spec_of(root, file)).wait()
    assert Lab(folders).runs() == []


def test_a_list_that_leaves_nothing_is_refused(root: Path, tmp_path: Path, folders: Folders) -> None:
    file = tmp_path / "leave.txt"
    for pattern, words in (("test/*/*.png", "leaves no test image"), ("train/b/*.png", "no training image of b")):
        file.write_text("\n".join(sha256_of(path) for path in root.glob(pattern)))
        with pytest.raises(DatasetError, match=words):
            load(spec_of(root, file), folders)


@pytest.mark.slow
def test_a_run_keeps_its_list_and_says_what_it_left_out(root: Path, listed: Path, folders: Folders) -> None:
    events = list(Lab(folders).train(spec_of(root, listed)).events())
    (started,) = (event for event in events if isinstance(event, RunStarted))
    assert (started.num_train, started.num_test, started.left_out) == (14, 7, {"excluded": 3})
    assert any(note.startswith("left out by ") for note in started.notes)
    kept = (folders.run_folder(1) / "excluded.txt").read_text().splitlines()
    assert len(kept) == 5
    assert kept[0].startswith("# left out of this run, from ")
    assert "excluded (test)" in (folders.run_folder(1) / MANIFEST_NAME).read_text()
    details = Lab(folders).run(1)
    listed.unlink()
    images = Lab(folders).mistakes(details, (0, 0), lambda progress: None, RunControl())
    assert len(images[0]) == len(images[1])


@pytest.mark.parametrize("gone", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_run_resumes_with_its_own_list_and_refuses_a_changed_one(
    root: Path, listed: Path, folders: Folders, gone: bool
) -> None:
    spec = spec_of(root, listed, epochs=2, checkpoint_every=1)
    run_until(StepsCompleted, folders, spec)
    lab, before = Lab(folders), listed.read_text()
    listed.write_text("1" * 64)
    with pytest.raises(DatasetError, match=r"leave.txt has changed since the run began; restore it, or move it"):
        lab.resume(1).wait()
    assert lab.summary(1).status == "stopped"
    if gone:
        listed.unlink()
    else:
        listed.write_text(f"# the same, with a comment\n{before}")
    ended = lab.resume(1).wait()
    assert ended is not None
    assert ended.status == "completed"
    started = lab.run(1).started
    assert started is not None
    assert started.num_train == 14


@pytest.mark.slow
def test_a_relative_list_is_found_from_any_folder(
    root: Path, listed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(listed.parent)
    facts = output_of(capsys, "audit", f"folder:{root}", "--exclude", "leave.txt", "--image-size", "32", "--json")
    assert [sum(part["counts"]) for part in facts["parts"]] == [14, 7]
    assert sorted(item["problem"] for item in facts["left_out"]) == ["excluded (test)"] + ["excluded (train)"] * 2
    assert reslab("audit", f"folder:{root}", "--exclude", "none.txt") == 2


# --- compare without the suspects -----------------------------------------------------------------------------------


def test_compare_repeats_its_verdict_without_test_images_that_lie_in_training(
    root: Path, folders: Folders, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1):
        (root / f"train/a/twin{number}.png").write_bytes((root / f"test/a/{number}.png").read_bytes())
    lab, specs = Lab(folders), [spec_of(root, None, seed=seed) for seed in (0, 1)]
    for spec in specs:
        lab.train(spec).wait()
    assert lab.compare([1, 2]).without == ()  # no audit is known
    drain(lab.audit(specs[0]))
    (sentence,) = lab.compare([1, 2]).without[:1]
    assert sentence.startswith("without the 2 test images that also lie in the training set: ")
    assert sentence.endswith(_verdict_on(lab, folders, leave_out=(0, 1)))
    assert reslab("compare", "1", "2") == 0
    assert sentence in capsys.readouterr().out
    assert sentence in output_of(capsys, "compare", "1", "2", "--json")["without"]


def _verdict_on(lab: Lab, folders: Folders, leave_out: tuple[int, ...]) -> str:
    """Computed from the runs' predictions by hand."""
    rest = []
    for run in (1, 2):
        rows = [row for row in lab.predictions(run) if row.index not in leave_out]
        columns = ([row.true_class_index for row in rows], [row.predicted_class_index for row in rows])
        rest.append((lab.run(run), Predictions(array("i", columns[0]), array("i", columns[1]), array("d"))))
    return compare(rest).verdicts[0].verdict


@pytest.mark.slow
def test_near_duplicates_count_once_a_person_says_that_they_are_the_same(root: Path, folders: Folders) -> None:
    reencode(root / "test/b/1.png", root / "train/b/again.jpg", quality=80)
    lab, specs = Lab(folders), [spec_of(root, None, seed=seed) for seed in (0, 1)]
    for spec in specs:
        lab.train(spec).wait()
    audit = drain(lab.audit(specs[0]))[1]
    assert lab.compare([1, 2]).without == ()
    lab.look.decide(audit.near[0].key, "same")
    assert lab.compare([1, 2]).without[0].startswith("without the 1 test image that also lies in the training set: ")


@pytest.mark.slow
def test_a_training_set_that_was_not_audited_is_named(root: Path, listed: Path, folders: Folders) -> None:
    (root / "train/a/twin.png").write_bytes((root / "test/b/0.png").read_bytes())
    listed.write_text(sha256_of(root / "train/b/3.png"))
    lab, specs = Lab(folders), [spec_of(root, None), spec_of(root, listed)]
    for spec in specs:
        lab.train(spec).wait()
    drain(lab.audit(specs[0]))
    assert "(that of run 2 was not audited): " in lab.compare([1, 2]).without[0]
