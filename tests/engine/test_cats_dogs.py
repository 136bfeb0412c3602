"""Cats vs dogs: every layout, every trap; decoded once; no duplicate on both sides; archives that mean no good."""

from __future__ import annotations

import csv
import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.control import RunControl
from engine.data import cats_dogs
from engine.data.cache import delete_entry, entries
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.data.splits import stratified_groups
from engine.errors import DatasetError
from engine.fetching import fetch
from engine.locking import try_to_lock
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.spec import RunSpec
from tests.fakes import drain
from tests.running import context_of
from tests.waiting import WITHIN_S

SPEC = RunSpec("cats-dogs", "resnet18", image_size=16)


def load(folders: Folders, spec: RunSpec = SPEC) -> tuple[list[Progress], ImageData]:
    return drain(load_dataset(spec, folders, RunControl()))


def picture(path: Path, tone: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(tone)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    return path


def pet_images(root: Path, number: int = 20) -> Path:
    for label, name in enumerate(("Cat", "Dog")):
        for index in range(number):
            picture(root / name / f"{index}.jpg", 1000 * label + index)
    return root


def test_microsofts_folder_with_all_its_traps(folders: Folders) -> None:
    root = pet_images(folders.data / "PetImages")
    (root / "Cat" / "666.jpg").touch()
    (root / "Cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "Dog" / "text.jpg").write_text("not an image")
    whole = (root / "Dog" / "1.jpg").read_bytes()
    (root / "Dog" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    Image.new("P", (30, 30)).save(root / "Dog" / "gif.jpg", format="GIF")
    Image.new("RGB", (30, 30), "red").save(root / "Dog" / "bmp.jpg", format="BMP")
    Image.new("L", (30, 30), 9).save(root / "Cat" / "grey.jpg")
    Image.new("CMYK", (30, 30)).save(root / "Cat" / "cmyk.jpg")
    Image.new("RGBA", (30, 30), (1, 2, 3, 40)).save(root / "Cat" / "alpha.png")
    _, data = load(folders)
    problems = {record.file: record.problem for record in data.manifest if record.split == "unusable"}
    assert set(problems) == {"Cat/666.jpg", "Cat/Thumbs.db", "Dog/text.jpg", "Dog/cut.jpg"}
    assert problems["Cat/666.jpg"] == "empty"
    assert problems["Dog/text.jpg"] == "no image"
    assert str(problems["Dog/cut.jpg"]).startswith("damaged")
    assert data.num_unusable == 4
    assert (len(data.train), len(data.test)) == (31, 14)
    assert data.train.images.shape[1:] == (3, 16, 16)


def test_kaggles_flat_folder(folders: Folders) -> None:
    for index in range(10):
        picture(folders.data / "train" / f"cat.{index}.jpg", index)
        picture(folders.data / "train" / f"dog.{index}.jpg", 100 + index)
    (folders.data / "train" / "sample.csv").write_text("no pet")
    _, data = load(folders)
    assert (len(data.train), len(data.test)) == (14, 6)
    assert data.class_names == ("cat", "dog")
    assert len(data.manifest) == 20


def test_the_second_start_decodes_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    pet_images(folders.data / "PetImages")
    stages, first = load(folders)
    assert {progress.stage for progress in stages} == {"decode", "check"}
    monkeypatch.setattr("engine.data.decoding.decode", lambda *_: pytest.fail("decoded again"))
    stages, second = load(folders)
    assert {progress.stage for progress in stages} == {"check"}
    assert second.test_sha256 == first.test_sha256
    assert second.manifest == first.manifest


def test_a_changed_file_or_another_size_is_decoded_anew(folders: Folders) -> None:
    root = pet_images(folders.data / "PetImages")
    load(folders)
    picture(root / "Cat" / "3.jpg", 777)
    assert "decode" in {progress.stage for progress in load(folders)[0]}
    assert "decode" in {progress.stage for progress in load(folders, SPEC.replace(image_size=12))[0]}
    assert {entry.shape for entry in entries(folders.cache)} == {(3, 16, 16), (3, 12, 12)}


def test_a_damaged_cache_is_noticed_and_made_anew(folders: Folders) -> None:
    pet_images(folders.data / "PetImages")
    _, first = load(folders)
    (entry,) = entries(folders.cache)
    file = folders.cache / entry.name / "images.u8"
    data = bytearray(file.read_bytes())
    data[100] ^= 1
    file.write_bytes(data)
    stages, second = load(folders)
    assert "decode" in {progress.stage for progress in stages}
    assert second.test_sha256 == first.test_sha256


def test_the_cache_stays_within_its_bound(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    pet_images(folders.data / "PetImages")
    load(folders)
    (entry,) = entries(folders.cache)
    monkeypatch.setenv("RESLAB_CACHE_GIB", str(1.5 * entry.num_bytes / 2**30))
    load(folders, SPEC.replace(image_size=15))
    assert [found.shape for found in entries(folders.cache)] == [(3, 15, 15)]
    assert delete_entry(folders.cache, entries(folders.cache)[0].name)
    assert not delete_entry(folders.cache, "../..")
    assert entries(folders.cache) == []


def test_a_stop_during_decoding_leaves_nothing_behind(folders: Folders) -> None:
    pet_images(folders.data / "PetImages")
    control = RunControl()
    control.stop()
    with pytest.raises(LoadingStopped):
        drain(load_dataset(SPEC, folders, control))
    assert [path.suffix for path in folders.cache.iterdir()] == [".lock"]


def test_exact_duplicates_stay_on_one_side(folders: Folders) -> None:
    root = pet_images(folders.data / "PetImages")
    for copy in range(6):
        (root / "Cat" / f"copy{copy}.jpg").write_bytes((root / "Cat" / "0.jpg").read_bytes())
    for seed in range(8):
        _, data = load(folders, SPEC.replace(split_seed=seed))
        sides: dict[str, set[str]] = {}
        for record in data.manifest:
            sides.setdefault(record.sha256, set()).add(record.split)
        assert all(len(found) == 1 for found in sides.values())


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30)), min_size=30, max_size=120),
    st.floats(0.2, 0.8),
    st.integers(0, 99),
)
def test_groups_are_never_divided(images: list[tuple[int, int]], share: float, seed: int) -> None:
    labels, groups = np.array(images, dtype=np.int64).T
    try:
        in_test = stratified_groups(labels, groups, share, seed)
    except DatasetError:
        return
    for group in np.unique(groups):
        assert len(set(in_test[groups == group])) == 1
    assert (in_test == stratified_groups(labels, groups, share, seed)).all()


def test_without_duplicates_the_share_is_exact_in_every_class() -> None:
    labels = np.repeat([0, 1], [12_500, 12_500])
    in_test = stratified_groups(labels, np.arange(25_000), 0.3, 0)
    assert np.bincount(labels[in_test]).tolist() == [3750, 3750]


def test_the_manifest_lies_with_the_run(folders: Folders) -> None:
    from engine.training.loop import train

    root = pet_images(folders.data / "PetImages")
    (root / "Dog" / "bad.jpg").write_text("x")
    spec = SPEC.replace(val_share=0.25, epochs=1)
    for event in train(spec, context_of(spec, folders, run=7)):
        if type(event).__name__ == "RunStarted":
            break
    with (folders.run_folder(7) / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert (rows[0]["file"], rows[0]["split"], rows[0]["problem"]) == ("Dog/bad.jpg", "unusable", "no image")
    splits = [row["split"] for row in rows]
    assert (splits.count("train"), splits.count("val"), splits.count("test")) == (21, 7, 12)


def zipped(path: Path, names: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in names.items():
            archive.writestr(name, data)
    return path


def test_an_archive_is_unpacked_whole(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "a.zip", {"PetImages/Cat/0.jpg": b"cat", "PetImages/Dog/0.jpg": b"dog"})
    drain(cats_dogs.unpack(archive, tmp_path / "out", RunControl()))
    assert (tmp_path / "out" / "PetImages" / "Cat" / "0.jpg").read_bytes() == b"cat"


@pytest.mark.parametrize("name", ["../outside.jpg", "/etc/outside.jpg", "PetImages/../../x", "PetImages\\..\\x"])
def test_a_path_that_leads_outside_is_refused(name: str, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        info = zipfile.ZipInfo("x")
        info.filename = name
        opened.writestr(info, b"x")
    with pytest.raises(DatasetError, match="leads outside"):
        drain(cats_dogs.unpack(archive, tmp_path / "out", RunControl()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip"]


def test_links_bombs_and_rubbish_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = zipfile.ZipInfo("PetImages/Cat/0.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    zipped(tmp_path / "large.zip", {"PetImages/Cat/0.jpg": b"x" * 1001})
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PetImages/Cat/0.jpg", bytes(999_999))
    (tmp_path / "rubbish.zip").write_bytes(b"PK rubbish")
    refused = (("link", "a link"), ("bomb", "unpacks to more"), ("rubbish", "cannot unpack"))
    for name, says in (*refused, ("large", "unpacks to more")):
        if name == "large":
            monkeypatch.setattr(cats_dogs, "MAX_BYTES", 1000)
        with pytest.raises(DatasetError, match=says):
            drain(cats_dogs.unpack(tmp_path / f"{name}.zip", tmp_path / "out", RunControl()))
        assert not (tmp_path / "out").exists()


class _Ranges(http.server.BaseHTTPRequestHandler):
    """Serves `content`, honours Range, and breaks the first answer off in the middle."""

    content = bytes(range(256)) * 4000
    asked: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.content[start:]
        if start >= len(self.content):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if len(self.asked) == 1 else body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    _Ranges.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ranges) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/file"
        served.shutdown()


def test_a_download_that_broke_off_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    from engine.errors import FetchError

    sha256 = hashlib.sha256(_Ranges.content).hexdigest()
    target = tmp_path / "file.zip"
    with pytest.raises(FetchError, match="broke off"):
        drain(fetch([server], target, sha256, RunControl(), "sha256"))
    seen, _ = drain(fetch([server], target, sha256, RunControl(), "sha256"))
    assert _Ranges.asked == [None, f"bytes={len(_Ranges.content) // 2}-"]
    assert target.read_bytes() == _Ranges.content
    assert seen[-1].done == seen[-1].total == len(_Ranges.content)
    assert list(tmp_path.iterdir()) == [target]


def test_a_download_that_had_all_come_is_only_named_anew(server: str, tmp_path: Path) -> None:
    """Its process ended between the last byte and the name."""
    sha256 = hashlib.sha256(_Ranges.content).hexdigest()
    (tmp_path / "file.zip.part").write_bytes(_Ranges.content)
    drain(fetch([server], tmp_path / "file.zip", sha256, RunControl(), "sha256"))
    assert _Ranges.asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]


def test_a_part_that_is_longer_than_the_file_is_fetched_anew(server: str, tmp_path: Path) -> None:
    _Ranges.asked.append(None)
    sha256 = hashlib.sha256(_Ranges.content).hexdigest()
    (tmp_path / "file.zip.part").write_bytes(_Ranges.content + b"more")
    drain(fetch([server], tmp_path / "file.zip", sha256, RunControl(), "sha256"))
    assert _Ranges.asked[1:] == [f"bytes={len(_Ranges.content) + 4}-", None]
    assert (tmp_path / "file.zip").read_bytes() == _Ranges.content


def at_once(number: int, work: Callable[[], object]) -> None:
    """Do it in so many threads, and fail as any of them did."""
    with ThreadPoolExecutor(number) as pool:
        for done in [pool.submit(work) for _ in range(number)]:
            done.result(WITHIN_S)


def test_duplicates_that_are_too_many_for_the_test_set_leave_it_to_others() -> None:
    groups = np.r_[np.zeros(30, np.int64), np.arange(1, 71)]  # thirty images that are the same
    for seed in range(50):
        in_test = stratified_groups(np.zeros(100, np.int64), groups, 0.2, seed)
        assert in_test.sum() == 20
        assert not in_test[:30].any()


def test_several_that_want_the_same_file_download_it_once(server: str, tmp_path: Path) -> None:
    _Ranges.asked.append(None)  # only a first answer breaks off
    sha256 = hashlib.sha256(_Ranges.content).hexdigest()
    target = tmp_path / "file.zip"
    at_once(6, lambda: drain(fetch([server], target, sha256, RunControl(), "sha256")))
    assert _Ranges.asked == [None, None]
    assert target.read_bytes() == _Ranges.content
    assert list(tmp_path.iterdir()) == [target]


def test_several_that_want_the_photographs_download_and_unpack_them_once(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the workers of a run do that is the first on its machine."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(200):
            archive.writestr(f"PetImages/{('Cat', 'Dog')[number % 2]}/{number}.jpg", b"x" * 1000)
    monkeypatch.setattr(_Ranges, "content", packed.getvalue())
    monkeypatch.setattr(cats_dogs, "URL", server)
    monkeypatch.setattr(cats_dogs, "SHA256", hashlib.sha256(packed.getvalue()).hexdigest())
    _Ranges.asked.append(None)
    found = []

    def look() -> None:
        drain(cats_dogs._get_archive(tmp_path, RunControl()))
        there = cats_dogs.find_files(tmp_path)
        found.append(len(there.files) if there else 0)

    at_once(4, look)
    assert found == [200] * 4
    assert len(_Ranges.asked) == 2


def test_whoever_waits_for_a_download_hears_of_a_stop(tmp_path: Path) -> None:
    control = RunControl()
    with (tmp_path / "file.zip.part").open("ab") as held:
        assert try_to_lock(held)
        waiting = fetch(["http://127.0.0.1:1/"], tmp_path / "file.zip", "", control)
        assert next(waiting).stage == "wait for another process to download file.zip"
        control.stop()
        with pytest.raises(LoadingStopped):
            drain(waiting)


def test_oxford_pets_keeps_its_published_split(folders: Folders) -> None:
    root = folders.data / "oxford-iiit-pet"
    (root / "annotations").mkdir(parents=True)
    lists: dict[str, list[str]] = {"trainval.txt": [], "test.txt": []}
    for index in range(12):
        name, species = f"Breed_{index}", index % 2 + 1
        picture(root / "images" / f"{name}.jpg", index)
        lists["test.txt" if index >= 8 else "trainval.txt"].append(f"{name} 1 {species} 1")
    for name, lines in lists.items():
        (root / "annotations" / name).write_text("\n".join(lines))
    _, data = load(folders, RunSpec("oxford-pets", "resnet18", image_size=16))
    assert (len(data.train), len(data.test)) == (8, 4)
    assert data.test.labels.tolist() == [0, 1, 0, 1]


def test_a_broken_jpeg_writes_nothing_to_the_terminal(folders: Folders, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even below Python: libjpeg writes to file descriptor 2."""
    from tests.engine.test_cli import reslab

    root = pet_images(folders.data / "PetImages", number=4)
    whole = bytearray((root / "Cat" / "0.jpg").read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 40] = b"\xff\x00\xff\xd9\x00" * 8
    (root / "Cat" / "broken.jpg").write_bytes(whole)
    assert reslab("train", "cats-dogs", "resnet20", "--image-size", "16", "--epochs", "1", "--json") == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    assert all(json.loads(line)["event"] for line in captured.out.splitlines())


def test_real_photographs_have_exactly_the_planted_unusable_files(real_data: Path, folders: Folders) -> None:
    _, data = load(Folders(folders.home, real_data, folders.cache), SPEC.replace(image_size=64))
    unusable = {record.file for record in data.manifest if record.split == "unusable"}
    assert unusable == {"Cat/666.jpg", "Cat/20004.jpg", "Cat/20005.jpg", "Cat/Thumbs.db", "Dog/11702.jpg"}
    assert len(data.train) + len(data.test) == 2508 - 5


def test_what_is_kept_is_listed_and_deleted_by_command(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.engine.test_cli import output_of, reslab

    pet_images(folders.data / "PetImages")
    load(folders)
    (entry,) = entries(folders.cache)
    assert reslab("datasets") == 0
    assert f"{entry.name}      40" in capsys.readouterr().out
    rows = {row["name"]: row for row in output_of(capsys, "datasets", "--json")}
    assert rows["cats-dogs"]["kept"][0]["num_images"] == 40
    assert reslab("datasets", "--delete", "nothing") == 2
    assert reslab("datasets", "--delete", "all") == 0
    assert entries(folders.cache) == []
