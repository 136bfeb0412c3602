"""Look first: what an audit finds in a dataset, keeps, and takes from a person's decisions."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.control import RunControl
from engine.data.audit.findings import Finding, findings_of, suspects
from engine.data.audit.hashing import MOST_CANDIDATES, Looks, looks_of, near_pairs
from engine.data.audit.rules import LEAST_CORRELATION, MOST_DHASH_BITS, MOST_PHASH_BITS
from engine.data.audit.values import Audit
from engine.data.cache import entries
from engine.errors import DatasetError
from engine.lab import Lab
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.engine.test_cli import output_of, reslab
from tests.fakes import drain

SIDE = 48


def scene(seed: int, side: int = SIDE) -> Image.Image:
    """Smooth colours, as in a photograph: different seeds look different."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def scenes(root: Path, counts: dict[str, int]) -> Path:
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            scene(seed).save(root / name / f"{number}.png")
            seed += 1
    return root


def reencode(source: Path, target: Path, quality: int = 60, share: float = 0.8) -> None:
    with Image.open(source) as opened:
        size = (round(opened.width * share), round(opened.height * share))
        opened.convert("RGB").resize(size).save(target, "JPEG", quality=quality)


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A test image in training, another one re-encoded, an image in two classes, and files that are none."""
    root = scenes(tmp_path / "images", {"train/a": 12, "train/b": 10, "test/a": 5, "test/b": 5})
    (root / "train/a/same.png").write_bytes((root / "test/a/0.png").read_bytes())
    reencode(root / "test/b/1.png", root / "train/b/again.jpg")
    (root / "train/b/other.png").write_bytes((root / "train/a/3.png").read_bytes())
    Image.new("RGB", (SIDE, SIDE), (2, 2, 2)).save(root / "train/a/black.png")
    scene(99).convert("L").save(root / "train/a/grey.gif")
    (root / "train/a/empty.jpg").touch()
    (root / "train/b/text.jpg").write_text("no image")
    return root


def spec_of(root: Path, **changes: Any) -> RunSpec:
    return RunSpec(f"folder:{root}", "resnet20", **{"image_size": 32, **changes})


def audited(folders: Folders, spec: RunSpec, run: int | None = None) -> Audit:
    audit: Audit = drain(Lab(folders).audit(spec, run=run))[1]
    return audit


def by_kind(audit: Audit, decisions: dict[tuple[str, str], str] | None = None) -> dict[str, Finding]:
    return {finding.kind: finding for finding in findings_of(audit, decisions or {}, 128)}


def test_an_audit_finds_what_is_planted_and_nothing_else(planted: Path, folders: Folders) -> None:
    audit = audited(folders, spec_of(planted))
    found = by_kind(audit)
    assert set(found) == {
        "duplicates-across-parts", "conflicting-labels", "near-duplicates", "duplicates-within-parts", "left-out",
        "small-classes", "extreme-brightness",
    }  # fmt: skip
    across = found["duplicates-across-parts"]
    assert across.items == ("train/a/same.png (train, a) = test/a/0.png (test, a)",)
    assert across.meaning.startswith("1 of 10 test images also lies in the training set")
    assert found["conflicting-labels"].items == ("train/a/3.png (train, a) = train/b/other.png (train, b)",)
    assert found["near-duplicates"].number == 1
    assert {audit.near[0].a.file, audit.near[0].b.file} == {"train/b/again.jpg", "test/b/1.png"}
    assert found["extreme-brightness"].items[0].startswith("train/a/black.png (train, a): nearly black")
    assert found["left-out"].meaning.startswith("2 files left out: 1 empty, 1 no image")
    assert [(part.part, part.counts) for part in audit.parts] == [("train", (15, 12)), ("test", (5, 5))]
    assert {kind.name: kind.number for kind in audit.modes} == {"PNG RGB": 35, "JPEG RGB": 1, "GIF P": 1}
    assert {kind.name: kind.number for kind in audit.sizes} == {"48×48": 36, "38×38": 1}


@pytest.mark.slow
def test_unequal_classes_are_named_with_their_ratio(tmp_path: Path, folders: Folders) -> None:
    root = scenes(tmp_path / "images", {"train/few": 3, "train/many": 12, "test/few": 2, "test/many": 2})
    found = by_kind(audited(folders, spec_of(root)))
    assert "4.0 : 1" in found["imbalance"].meaning
    assert found["imbalance"].items[0] == "few: 3 training images"
    assert found["small-classes"].number == 2
    few = {item.kind: item for item in findings_of(audited(folders, spec_of(root)), {}, 10)}
    assert few["small-classes"].items == ("few: 3 training images",)


def test_a_decision_settles_a_pair_in_every_later_audit(planted: Path, folders: Folders) -> None:
    lab = Lab(folders)
    audit = audited(folders, spec_of(planted))
    (pair,) = audit.near
    exact = suspects(audit, {})
    assert exact == (0,)
    lab.look.decide(pair.key, "different")
    assert "near-duplicates" not in by_kind(audit, lab.look.decisions())
    assert suspects(audit, lab.look.decisions()) == exact
    lab.look.decide((pair.key[1], pair.key[0]), "same")
    again = audited(folders, spec_of(planted, split_seed=1))  # another audit of the same images
    found = by_kind(again, lab.look.decisions())
    assert found["confirmed-across-parts"].meaning.startswith("1 of 10 test images also lies in the training set")
    assert suspects(again, lab.look.decisions()) == (0, 6)
    lab.look.decide(pair.key, "undecided")
    assert "near-duplicates" in by_kind(audit, lab.look.decisions())


def test_the_second_look_is_kept_until_a_file_changes(planted: Path, folders: Folders) -> None:
    spec = spec_of(planted)
    assert Lab(folders).look.kept(spec) is None
    first = audited(folders, spec)
    progress, second = drain(Lab(folders).audit(spec.replace(model="resnet18", seed=3)))
    assert (progress, second) == ([], first)
    kept = Lab(folders).look.kept(spec)
    assert kept is not None
    assert kept.samples.shape == (12, 3, 48, 48)
    scene(500).save(planted / "train/a/new.png")
    assert Lab(folders).look.kept(spec) is None
    assert audited(folders, spec).num_images == first.num_images + 1


@pytest.mark.slow
def test_a_damaged_entry_is_made_again(planted: Path, folders: Folders) -> None:
    first = audited(folders, spec_of(planted))
    (entry,) = folders.cache.glob("audit-*")
    for name in ("audit.json", "samples.u8", "index.json"):
        (entry / name).write_bytes((entry / name).read_bytes().replace(b"a", b"e", 1)[:-1])
        progress, again = drain(Lab(folders).audit(spec_of(planted)))
        assert progress
        assert again == first


def kept_of_folders(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    (row,) = [row for row in output_of(capsys, "datasets", "--json") if row["name"] == "folder:PATH"]
    kept: list[dict[str, Any]] = row["kept"]
    return kept


def test_kept_audits_are_listed_counted_and_deleted_with_the_decoded_images(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reslab("audit", f"folder:{planted}", "--image-size", "32") == 0
    kept = kept_of_folders(capsys)
    (audit,) = [entry for entry in kept if entry["what"] == "audit"]
    assert audit["num_images"] == 37
    assert audit["num_bytes"] > 12 * 3 * 48 * 48
    assert reslab("datasets") == 0
    assert "audit of …" in capsys.readouterr().out
    assert reslab("datasets", "--delete", audit["name"]) == 0
    assert [entry["what"] for entry in kept_of_folders(capsys)] == ["images"]


def test_a_stopped_audit_keeps_nothing(planted: Path, folders: Folders) -> None:
    control = RunControl()
    work = Lab(folders).audit(spec_of(planted), control)
    while next(work).stage != "hash":
        pass
    control.stop()
    with pytest.raises(LoadingStopped):
        drain(work)
    assert {entry.what for entry in entries(folders.cache)} == {"images"}


def test_the_command_line_says_the_same_facts_both_ways_and_ends_with_0(
    planted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = output_of(capsys, "audit", f"folder:{planted}", "--json", "--batch-size", "16", "--image-size", "32")
    assert reslab("audit", f"folder:{planted}", "--batch-size", "16", "--image-size", "32") == 0
    text = capsys.readouterr().out
    assert [item["kind"] for item in facts["findings"]][:2] == ["duplicates-across-parts", "conflicting-labels"]
    for finding in facts["findings"]:
        assert f"{finding['number']} {finding['title']}\n  {finding['meaning']}" in text
        assert all(item in text for item in finding["items"])
    assert re.search(r"^a +15 +5$", text, re.MULTILINE)
    assert facts["parts"] == [{"part": "train", "counts": [15, 12]}, {"part": "test", "counts": [5, 5]}]


@pytest.mark.slow
def test_hostile_file_names_are_made_safe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = scenes(tmp_path / "images", {"train/a": 4, "train/b": 4, "test/a": 2, "test/b": 2})
    (root / "train/a/\x1b]52;x\x07.png").write_bytes((root / "test/a/0.png").read_bytes())
    (root / "train/b/caf\udce9.png").write_bytes(b"")
    assert reslab("audit", f"folder:{root}") == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "1 of 4 test images" in out
    assert reslab("audit", f"folder:{root}", "--json") == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_missing_dataset_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ((f"folder:{tmp_path}/none",), ("digits", "--run", "7"), ("nothing",)):
        assert reslab("audit", *words) == 2
        error = capsys.readouterr().err
        assert error.startswith("reslab: ")
        assert error.count("\n") == 1


@pytest.mark.slow
def test_images_without_files_are_hashed_as_the_dataset_stores_them(folders: Folders, few_digits: None) -> None:
    native, small = audited(folders, RunSpec("digits", "resnet20")), audited(folders, RunSpec("digits", "resnet20"))
    small = audited(folders, RunSpec("digits", "resnet20", image_size=6))
    assert native.shape == (1, 8, 8)
    assert small.shape == (1, 6, 6)
    assert native.test_sha256 != small.test_sha256
    assert "not searched for" in native.near_note
    assert native.duplicates == small.duplicates == ()


def test_equal_pixels_are_duplicates_without_files(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.data import digits

    whole = digits.load

    def load(*given: Any) -> Any:
        images = yield from whole(*given)
        train = images.train.take(torch.arange(180))
        train.images[5] = images.test.images[3]
        return replace(images, train=train, test=images.test.take(torch.arange(45)))

    monkeypatch.setattr(digits, "load", load)
    audit = audited(folders, RunSpec("digits", "resnet20", image_size=4))
    (group,) = [group for group in audit.duplicates if {image.part for image in group} == {"train", "test"}]
    assert [image.index for image in group if image.part == "test"] == [3]
    assert suspects(audit, {}) == (3,)


@pytest.mark.slow
def test_a_runs_network_says_which_pairs_it_cannot_tell_apart_and_what_is_far_from_its_class(
    planted: Path, folders: Folders
) -> None:
    spec = spec_of(planted, epochs=1, batch_size=8, dtype="float32")
    ended = Lab(folders).train(spec).wait()
    assert ended is not None
    assert ended.status == "completed"
    audit = audited(folders, spec, run=1)
    assert audit.by_network is not None
    assert audit.by_network.run == 1
    found = {frozenset((pair.a.file, pair.b.file)) for pair in audit.by_network.pairs}
    assert frozenset(("train/b/again.jpg", "test/b/1.png")) in found
    assert all(pair.a.sha256 != pair.b.sha256 for pair in audit.by_network.pairs)
    assert all(item.nearest_distance < item.own_distance for item in audit.by_network.odd)
    assert drain(Lab(folders).audit(spec, run=1))[0] == []
    assert Lab(folders).look.kept(spec) is not None  # the audit without the network is kept as well
    with pytest.raises(DatasetError, match="trained on images of 32×32×3, these are 24×24×3; set --image-size 32"):
        audited(folders, spec.replace(image_size=24), run=1)


# --- the hashes -----------------------------------------------------------------------------------------------------


def looks_with(hashes: np.ndarray[Any, Any]) -> Looks:
    """Images with these hashes whose small pictures are all alike."""
    small = np.full((len(hashes), 256), 1 / 16, np.float32)
    return Looks(hashes, np.zeros_like(hashes), small, small[:, 0], small[:, 0])


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(2, 60))
def test_the_search_finds_what_a_comparison_of_all_pairs_finds(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, number, dtype=np.uint64)
    for index in range(1, number, 2):  # neighbours of the one before, 0 to 12 bits away
        for bit in rng.choice(64, rng.integers(0, 13), replace=False).tolist():
            hashes[index] ^= np.uint64(1 << bit)
        hashes[index] ^= hashes[index] ^ hashes[index - 1] if rng.random() < 0.2 else np.uint64(0)
    looks = looks_with(hashes)
    pairs, bits, complete = drain(near_pairs(looks, np.arange(number), RunControl()))[1]
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    expected = np.argwhere(np.triu(distance <= MOST_PHASH_BITS, 1))
    assert complete
    assert pairs.tolist() == expected.tolist()
    assert bits.tolist() == [int(distance[a, b]) for a, b in expected]


def changed_copies() -> dict[str, Callable[[Image.Image], Image.Image]]:
    def jpeg(image: Image.Image, quality: int) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream).convert("RGB")

    return {
        "quality 60": lambda image: jpeg(image, 60),
        "quality 20": lambda image: jpeg(image, 20),
        "80 %": lambda image: image.resize((round(0.8 * SIDE),) * 2).resize((SIDE, SIDE)),
        "brighter": lambda image: image.point(lambda value: min(value + 10, 255)),
    }


@pytest.mark.parametrize("change", changed_copies())
def test_a_changed_copy_is_near_and_other_scenes_are_far(change: str) -> None:
    originals = [scene(seed) for seed in range(40)]
    copies = [changed_copies()[change](image) for image in originals]
    pixels = np.stack([np.asarray(image).transpose(2, 0, 1) for image in (*originals, *copies)])
    looks = looks_of(torch.from_numpy(pixels))
    pairs, _, _ = drain(near_pairs(looks, np.arange(80), RunControl()))[1]
    assert pairs.tolist() == [[number, number + 40] for number in range(40)]


def test_the_thresholds_are_all_needed() -> None:
    """Each of the three alone keeps a pair apart."""
    one = looks_of(torch.from_numpy(np.asarray(scene(1)).transpose(2, 0, 1)[None].copy()))
    both = Looks.joined([one, one])
    assert len(drain(near_pairs(both, np.arange(2), RunControl()))[1][0]) == 1
    far = np.array([0, (1 << (MOST_DHASH_BITS + 1)) - 1], np.uint64)
    assert len(drain(near_pairs(replace(both, dhash=far), np.arange(2), RunControl()))[1][0]) == 0
    turned = np.stack([np.eye(256)[0], (1 - LEAST_CORRELATION) * np.eye(256)[1]]).astype(np.float32)
    assert len(drain(near_pairs(replace(both, small=turned), np.arange(2), RunControl()))[1][0]) == 0
    assert MOST_CANDIDATES > 10_000**2


@pytest.mark.slow
def test_the_json_of_an_audit_is_plain(planted: Path, folders: Folders) -> None:
    """It goes through a file and back unchanged: `kept` reads what `audit` returned."""
    audit = audited(folders, spec_of(planted))
    kept = Lab(folders).look.kept(spec_of(planted))
    assert kept is not None
    assert kept.audit == audit
    assert json.loads(json.dumps(audit.left_out_by_kind)) == {"empty": 1, "no image": 1}
