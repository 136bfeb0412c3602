"""Archives of images: unpacked once and safely, or refused in a sentence with nothing written."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.catalog.datasets import absolute_dataset
from engine.control import RunControl
from engine.data import archives
from engine.data.cache import delete_entry, entries, keep_within_bound
from engine.data.images import ImageData
from engine.data.loading import check_dataset, load_dataset
from engine.data.survey import survey_now
from engine.errors import DatasetError
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.engine.test_folders import pictures
from tests.fakes import drain


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path / "home", tmp_path / "data", tmp_path / "cache")


def packed(folder: Path, archive: Path, top: str = "") -> Path:
    """The files of `folder`, below a folder `top` of the archive."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as made:
            for path in files:
                made.write(path, Path(top) / path.relative_to(folder))
        return archive
    kind = archive.suffix.removeprefix(".").replace("tgz", "gz").replace("tar", "")
    with tarfile.open(archive, f"w:{kind}") as tar:  # type: ignore[call-overload]
        for path in files:
            tar.add(path, Path(top) / path.relative_to(folder))
    return archive


def load(name: str, folders: Folders, **settings: object) -> ImageData:
    spec = RunSpec(name, "resnet20", **settings)  # type: ignore[arg-type]
    check_dataset(spec)
    data: ImageData = drain(load_dataset(spec, folders, RunControl()))[1]
    return data


@pytest.mark.parametrize(
    ("ending", "top"),
    [
        (".zip", "photos"),
        (".tgz", ""),
        (".tar", "some/folder"),
        *(
            pytest.param(ending, "", marks=pytest.mark.slow)
            for ending in (".zip", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2")
        ),
    ],
)
def test_an_archive_of_a_folder_is_that_folder(ending: str, top: str, tmp_path: Path, folders: Folders) -> None:
    root = pictures(tmp_path / "mine", {"train/a": 3, "train/b/deep": 3, "val/a": 1, "test/a": 1, "test/b": 2}, 5)
    archive = packed(root, tmp_path / f"set{ending}", top)
    plain, data = load(f"folder:{root}", folders), load(absolute_dataset(str(archive)), folders)
    assert data.class_names == ("a", "b")
    assert (data.test_sha256, data.train_sha256) == (plain.test_sha256, plain.train_sha256)
    assert [record.file for record in data.manifest] == [record.file for record in plain.manifest]
    assert survey_now(RunSpec(f"folder:{archive}", "resnet20"), folders).num_images == 10


def test_the_second_use_unpacks_and_decodes_nothing(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.zip")
    first = load(f"folder:{archive}", folders)
    before = {entry.name for entry in entries(folders.cache)}
    assert len(before) == 2
    for module in ("engine.data.members.zipfile.ZipFile.open", "engine.data.cache.decode_files"):
        monkeypatch.setattr(module, lambda *args: pytest.fail("not again"))
    assert load(f"folder:{archive}", folders).test_sha256 == first.test_sha256
    assert {entry.name for entry in entries(folders.cache)} == before


def test_what_is_unpacked_is_listed_bounded_and_deleted_like_other_entries(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.tar")
    first = load(f"folder:{archive}", folders)
    unpacked = next(entry for entry in entries(folders.cache) if not entry.shape)
    assert (unpacked.source, unpacked.num_images) == (f"folder:{archive}", 6)
    assert unpacked.num_bytes == sum(path.stat().st_size for path in (tmp_path / "mine").rglob("*.png"))
    (folders.cache / unpacked.name / "files/a/0.png").unlink()
    assert load(f"folder:{archive}", folders).test_sha256 == first.test_sha256  # unpacked again
    assert delete_entry(folders.cache, unpacked.name)
    monkeypatch.setattr("engine.data.cache.decode_files", lambda *args: pytest.fail("decoded again"))
    assert load(f"folder:{archive}", folders).train_sha256 == first.train_sha256
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    keep_within_bound(folders.cache, "none")
    assert not entries(folders.cache)


def test_an_archive_in_use_is_not_deleted(tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.zip")
    spec = RunSpec(f"folder:{archive}", "resnet20")
    held = drain(archives.opened(spec, folders, RunControl(), lambda top: top))[1]
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    with held as path:
        name = entries(folders.cache)[0].name
        keep_within_bound(folders.cache, "none")
        assert (path / "a").is_dir()
        with pytest.raises(DatasetError, match="in use"):
            delete_entry(folders.cache, name)
    assert delete_entry(folders.cache, name)


def test_a_changed_archive_is_unpacked_anew(tmp_path: Path, folders: Folders) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.zip")
    assert len(load(f"folder:{archive}", folders).manifest) == 6
    packed(pictures(tmp_path / "mine", {"a": 4, "b": 4}), archive)
    assert len(load(f"folder:{archive}", folders).manifest) == 9  # 0 to 3, and 3 to 7


def test_a_stop_leaves_nothing_and_what_a_killed_process_left_goes(tmp_path: Path, folders: Folders) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.tgz")
    left = folders.cache / ".archive-of-a-killed-process.part" / "files"
    left.mkdir(parents=True)
    control = RunControl()
    control.stop()
    spec = RunSpec(f"folder:{archive}", "resnet20")
    with pytest.raises(LoadingStopped):
        drain(load_dataset(spec, folders, control))
    assert [path.name for path in folders.cache.iterdir() if path.is_dir()] == [left.parent.name]
    load(f"folder:{archive}", folders)
    assert not left.exists()


def zipped(tmp_path: Path, *members: tuple[str, bytes, int]) -> Path:
    """A .zip of names, contents and Unix modes, written without any check."""
    with zipfile.ZipFile(tmp_path / "evil.zip", "w", zipfile.ZIP_DEFLATED) as made:
        for name, content, mode in members:
            info = zipfile.ZipInfo("x")
            info.filename, info.external_attr, info.create_system = name, mode << 16, 3
            info.compress_type = zipfile.ZIP_DEFLATED
            made.writestr(info, content)
    return tmp_path / "evil.zip"


def tarred(tmp_path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A .tar.gz of names, contents or targets of links, and types."""
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as made:
        for name, content, kind in members:
            info = tarfile.TarInfo(name)
            info.type = getattr(tarfile, kind)
            if kind == "REGTYPE":
                info.size = len(content)
            else:
                info.linkname = content.decode()
            made.addfile(info, io.BytesIO(content))
    return tmp_path / "evil.tar.gz"


FILE, LINK = stat.S_IFREG | 0o644, stat.S_IFLNK | 0o777
EVIL: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip: upwards": (lambda at: zipped(at, ("../../out.png", b"x", FILE)), "outside"),
    "zip: upwards in the middle": (lambda at: zipped(at, ("a/../../out.png", b"x", FILE)), "outside"),
    "zip: backslashes": (lambda at: zipped(at, ("..\\out.png", b"x", FILE)), "outside"),
    "zip: absolute": (lambda at: zipped(at, (f"{at}/out.png", b"x", FILE)), "outside"),
    "zip: a drive": (lambda at: zipped(at, ("C:\\out.png", b"x", FILE)), "outside"),
    "zip: a link out": (lambda at: zipped(at, ("a", str(at).encode(), LINK), ("a/out.png", b"x", FILE)), "outside"),
    "zip: a link up": (lambda at: zipped(at, ("a/b", b"../../out", LINK)), "outside"),
    "zip: a device": (lambda at: zipped(at, ("a/b", b"", stat.S_IFCHR | 0o644)), "device"),
    "zip: a bomb": (lambda at: zipped(at, *((f"a/{n}.png", bytes(2**20), FILE) for n in range(3))), "200 times"),
    "tar: upwards": (lambda at: tarred(at, ("../out.png", b"x", "REGTYPE")), "outside"),
    "tar: absolute": (lambda at: tarred(at, (f"{at}/out.png", b"x", "REGTYPE")), "outside"),
    "tar: a link out": (lambda at: tarred(at, ("a", str(at).encode(), "SYMTYPE"), ("a/out.png", b"x", "REGTYPE")),
                        "outside"),
    "tar: a link up": (lambda at: tarred(at, ("a/b", b"../..", "SYMTYPE"), ("a/b/c.png", b"x", "REGTYPE")), "outside"),
    "tar: a hard link out": (lambda at: tarred(at, ("a/b", b"/etc/passwd", "LNKTYPE")), "outside"),
    "tar: a link to a link": (lambda at: tarred(at, ("a", b"b", "SYMTYPE"), ("b", b"a", "SYMTYPE")), "no file in it"),
    "tar: a device": (lambda at: tarred(at, ("a/b", b"", "CHRTYPE")), "device"),
    "tar: a pipe": (lambda at: tarred(at, ("a/b", b"", "FIFOTYPE")), "device"),
    "tar: a bomb": (lambda at: tarred(at, *((f"a/{n}.png", bytes(2**20), "REGTYPE") for n in range(3))), "200 times"),
    "tar: nothing": (tarred, "no file"),
    "zip: nothing": (zipped, "no file"),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_an_archive_that_would_do_harm_is_refused_and_writes_nothing(
    name: str, tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, says = EVIL[name]
    monkeypatch.setattr(archives, "HARMLESS_BYTES", 2**21)
    inner = tmp_path / "some" / "inner"
    inner.mkdir(parents=True)
    archive = make(inner)
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(DatasetError, match=says) as refused:
        load(f"folder:{archive}", folders)
    assert str(archive) in str(refused.value)
    assert "\n" not in str(refused.value)
    after = sorted(path for path in tmp_path.rglob("*") if folders.cache not in path.parents and path != folders.cache)
    assert after == before
    assert all(path.name.endswith(".lock") for path in folders.cache.glob("*"))


def test_links_inside_are_followed(tmp_path: Path, folders: Folders) -> None:
    pictures(tmp_path / "mine", {"a": 3, "b": 3})
    os.link(tmp_path / "mine/a/0.png", tmp_path / "mine/a/hard.png")
    (tmp_path / "mine/b/soft.png").symlink_to("../a/1.png")
    archive = packed(tmp_path / "mine", tmp_path / "set.tar")
    with tarfile.open(archive) as opened:
        assert {member.type for member in opened} == {tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE}
    assert load(f"folder:{archive}", folders).manifest == load(f"folder:{tmp_path}/mine", folders).manifest


def test_a_disk_that_is_too_small_is_said_before_it_is_full(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 3, "b": 3}), tmp_path / "set.zip")
    monkeypatch.setattr(archives, "SHARE_OF_FREE", 1e-18)
    with pytest.raises(DatasetError, match="are free; free some space, or choose another disk with RESLAB_CACHE"):
        load(f"folder:{archive}", folders)
    monkeypatch.setattr(archives, "SHARE_OF_FREE", 0.9)
    monkeypatch.setattr(archives, "MAX_FILES", 5)
    with pytest.raises(DatasetError, match="more than 5 files"):
        load(f"folder:{archive}", folders)


def test_an_encrypted_archive_is_refused(tmp_path: Path, folders: Folders) -> None:
    content = bytearray(packed(pictures(tmp_path / "mine", {"a": 1, "b": 1}), tmp_path / "set.zip").read_bytes())
    place = 0
    for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # the flag of encryption, in both headers of each file
        while (place := content.find(signature, place)) >= 0:
            content[place + offset] |= 1
            place += 4
        place = 0
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DatasetError, match="is encrypted; unpack it yourself, and choose the folder"):
        load(f"folder:{tmp_path}/set.zip", folders)


@pytest.mark.parametrize(
    "ending", [".zip", ".tar", *(pytest.param(ending, marks=pytest.mark.slow) for ending in (".tgz", ".tar.xz"))]
)
@pytest.mark.parametrize("harm", ["cut", "rubbish", "empty", "missing", "flipped"])
def test_a_damaged_archive_is_said_to_be_so(ending: str, harm: str, tmp_path: Path, folders: Folders) -> None:
    archive = packed(pictures(tmp_path / "mine", {"a": 30, "b": 30}), tmp_path / f"set{ending}")
    content = bytearray(archive.read_bytes())
    middle = len(content) // 2 // 512 * 512
    content[middle : middle + 512] = bytes(255 - byte for byte in content[middle : middle + 512])
    harmed = {
        "cut": bytes(content[: len(content) // 3]),
        "rubbish": b"rubbish" * 99,
        "empty": b"",
        "flipped": bytes(content),
    }
    if harm == "missing":
        archive.unlink()
    else:
        archive.write_bytes(harmed[harm])
    if (ending, harm) == (".tar", "flipped"):
        pytest.skip("a .tar has no checksums of contents: the image decides")
    with pytest.raises(DatasetError, match="no file" if harm == "missing" else "cannot unpack") as refused:
        load(f"folder:{archive}", folders)
    assert str(archive) in str(refused.value)
    assert not list(folders.cache.glob("*/files"))


def test_names_in_another_encoding_and_long_or_strange_ones_are_kept_apart(tmp_path: Path, folders: Folders) -> None:
    image = pictures(tmp_path / "mine", {"a": 1}) / "a/0.png"
    names = ["ä/1.png", "日本/2.png", "a\x1b[31m/3.png", f"{'x' * 200}/4.png", "with\nnewline/5.png"]
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as made:
        for number, name in enumerate(names * 3):
            info = zipfile.ZipInfo(name.replace(".png", f"{number}.png"))
            made.writestr(info, image.read_bytes() + bytes([number]))
    content = (tmp_path / "set.zip").read_bytes()
    for signature, offset in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # as if UTF-8 had not been declared
        pieces = content.split(signature)
        content = signature.join(
            [pieces[0], *(p[: offset - 4] + bytes([p[offset - 4] & ~8]) + p[offset - 3 :] for p in pieces[1:])]
        )
    data = load(f"folder:{packed_again(content, tmp_path)}", folders)
    assert set(data.class_names) >= {"ä", "日本"}
    assert len(data.class_names) == len(names)


def packed_again(content: bytes, tmp_path: Path) -> Path:
    (tmp_path / "again.zip").write_bytes(content)
    return tmp_path / "again.zip"


def test_a_name_that_no_disk_takes_is_refused(tmp_path: Path, folders: Folders) -> None:
    archive = zipped(tmp_path, ("x" * 300 + "/1.png", b"x", FILE))
    with pytest.raises(DatasetError, match="File name too long"):
        load(f"folder:{archive}", folders)


def test_what_is_wrong_inside_is_said_of_the_archive(tmp_path: Path, folders: Folders) -> None:
    archive = packed(pictures(tmp_path / "mine", {"train/a": 2, "train/b": 2, "test/c": 2}), tmp_path / "set.tar.gz")
    with pytest.raises(DatasetError, match=f"{archive}/train has no image of c, which {archive}/test has"):
        load(f"folder:{archive}", folders)


def test_a_list_of_files_that_would_fill_the_memory_is_not_read(tmp_path: Path, folders: Folders) -> None:
    content = bytearray(packed(pictures(tmp_path / "mine", {"a": 1, "b": 1}), tmp_path / "set.zip").read_bytes())
    at = content.rindex(b"PK\5\6") + 12
    content[at : at + 4] = (2**31).to_bytes(4, "little")
    (tmp_path / "set.zip").write_bytes(content)
    assert absolute_dataset(f"{tmp_path}/set.zip") == f"folder:{tmp_path}/set.zip"
    with pytest.raises(DatasetError, match="has a list of files of more than 268,435,456 bytes"):
        load(f"folder:{tmp_path}/set.zip", folders)


def test_a_kind_is_found_without_unpacking_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = tarred(
        tmp_path,
        ("a/1.png", bytes(2**20), "REGTYPE"),
        ("a/2.png", bytes(2**20), "REGTYPE"),
        ("set.csv", b"", "REGTYPE"),
    )
    assert absolute_dataset(str(bomb)) == f"csv:{bomb}"
    monkeypatch.setattr("engine.catalog.inside.MOST_BYTES", 2**20)
    assert absolute_dataset(str(bomb)) == f"folder:{bomb}"
