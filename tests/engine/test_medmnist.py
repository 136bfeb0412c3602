"""MedMNIST's sets: found where they lie, or fetched from where they are published."""

from __future__ import annotations

import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from engine.catalog import medmnist as table
from engine.catalog.datasets import find_dataset
from engine.catalog.medmnist import MEDSETS, SIZES, find_medset
from engine.data import medmnist
from engine.data.survey import survey_now
from engine.errors import DatasetError, SpecError
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.engine.test_archives import folders, load
from tests.engine.test_npz import arrays, saved

__all__ = ["folders"]


class _Files(http.server.BaseHTTPRequestHandler):
    served: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = self.served.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[bytes]:
    """A small set in place of breast:64, with its MD5, on a server of this machine."""
    content = saved(tmp_path / "made" / "set.npz", arrays({"train": 8, "val": 4, "test": 4}, (64, 64), 2)).read_bytes()
    breast, _ = find_medset("medmnist:breast")
    md5 = (breast.md5[0], hashlib.md5(content).hexdigest(), *breast.md5[2:])
    monkeypatch.setattr(table, "MEDSETS", (replace(breast, counts=(8, 4, 4), md5=md5),))
    monkeypatch.setattr(medmnist, "PACKAGE_FOLDER", str(tmp_path / "package"))
    _Files.served, _Files.asked = {"/breastmnist_64.npz?download=1": content}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(medmnist, "URL", f"http://127.0.0.1:{server.server_port}")
        yield content
        server.shutdown()


def test_a_set_is_fetched_once_and_checked(published: bytes, folders: Folders) -> None:
    data = load("medmnist:breast:64", folders)
    assert data.class_names == ("malignant", "normal, benign")
    assert (len(data.train), len(data.val or ()), len(data.test), data.notes[1:]) == (8, 4, 4, ())
    assert (folders.data / "medmnist/breastmnist_64.npz").read_bytes() == published
    assert load("medmnist:breast:64", folders).test_sha256 == data.test_sha256
    assert _Files.asked == ["/breastmnist_64.npz?download=1"]


def test_another_file_than_the_published_one_is_not_taken_from_the_network(published: bytes, folders: Folders) -> None:
    _Files.served = {"/breastmnist_64.npz?download=1": published[:-1] + b"x"}
    with pytest.raises(
        DatasetError, match=r"sent another file .md5 .* put it there, or set its folder with --data-dir"
    ):
        load("medmnist:breast:64", folders)
    with pytest.raises(DatasetError, match=r"breastmnist.npz.* Not Found.*expected .*data/medmnist/breastmnist.npz"):
        load("medmnist:breast", folders)


@pytest.mark.parametrize("place", ["data/medmnist", "data", "package"])
def test_a_file_that_the_user_has_is_read_where_it_lies(
    place: str, published: bytes, tmp_path: Path, folders: Folders
) -> None:
    path = tmp_path / place / "breastmnist_64.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(published)
    assert len(load("medmnist:breast:64", folders).notes) == 1
    saved(path, arrays({"train": 4, "val": 2, "test": 2}, (64, 64), 2))
    data = load("medmnist:breast:64", folders)
    assert f"{path} is not the published file (MD5" in data.notes[-1]
    assert _Files.asked == []


def test_the_table_says_what_a_set_is_before_it_is_fetched(folders: Folders) -> None:
    assert len(MEDSETS) == 11
    for found in MEDSETS:
        assert len({len(md5) for md5 in found.md5} | {32}) == 1
        for size in SIZES:
            name = f"medmnist:{found.name}:{size}"
            shape = DataShape(found.channels, size, size, len(found.class_names))
            surveyed = survey_now(RunSpec(name, "resnet18"), folders)
            assert (surveyed.shape, surveyed.num_images) == (shape, sum(found.counts))
            assert medmnist.file_name(found, size) in (f"{found.name}mnist.npz", f"{found.name}mnist_{size}.npz")
    assert len({md5 for found in MEDSETS for md5 in found.md5}) == 44
    breast = find_dataset("medmnist:breast")
    assert (breast.num_train, breast.num_val, breast.num_test) == (546, 78, 156)
    assert breast.shape == DataShape(1, 28, 28, 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("medmnist:chest", "has 14 labels for each image, any of which may be true at once"),
        ("medmnist:chest:64", "one class each, so choose another set"),
        ("medmnist:breasts", "no MedMNIST set 'breasts': did you mean breast"),
        ("medmnist:", "no MedMNIST set ''"),
        ("medmnist:breast:32", "has no size '32'; expected one of 28, 64, 128, 224"),
    ],
)
def test_a_set_that_there_is_not_is_refused_at_once(name: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        RunSpec(name, "resnet18")


def test_its_validation_part_is_the_only_one(folders: Folders) -> None:
    with pytest.raises(DatasetError, match="medmnist:breast has a validation part of its own, val; set val share to 0"):
        load("medmnist:breast", folders, val_share=0.1)
