"""Another package's network and dataset, found through its entry points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.catalog.datasets import PACKAGE, absolute_dataset, find_dataset
from engine.catalog.installed import provided
from engine.catalog.models import find_model
from engine.catalog.own_models import absolute_model
from engine.cli import main
from engine.errors import DatasetError, ModelError, SpecError
from engine.lab import Lab
from engine.paths import Folders
from engine.spec import RunSpec
from tests.installing import example_installed
from tests.killing import killed_resumed_and_compared
from tests.test_contracts import loaded_by

SPEC = RunSpec("reslab-spots:spots", "reslab-spots:spotnet", epochs=1, batch_size=32)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with example_installed(tmp_path / "site", monkeypatch):
        yield


@pytest.mark.usefixtures("installed")
def test_its_names_are_found_with_and_without_the_package() -> None:
    assert find_model("spotnet").name == absolute_model("spotnet") == SPEC.model
    assert absolute_dataset("spots") == SPEC.dataset
    assert find_dataset("spots") is PACKAGE
    assert find_model("spotnet").title == "from the package reslab-spots 1.2"


@pytest.mark.usefixtures("installed")
def test_its_names_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"], lambda opening: 0) == 0
    assert main(["datasets"], lambda opening: 0) == 0
    out = capsys.readouterr().out
    assert "reslab-spots:spotnet" in out
    assert "reslab-spots:spots" in out
    assert out.count("from the package reslab-spots 1.2") == 2


@pytest.mark.usefixtures("installed", "one_thread")
def test_its_network_is_trained_on_its_images(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "spots", "spotnet", "--epochs", "1", "--batch-size", "32", "--home", str(folders.home)]
    assert main(words, lambda opening: 0) == 0
    err = capsys.readouterr().err
    assert "reslab-spots:spots and reslab-spots:spotnet are code: they run on this machine with all your rights" in err
    details = Lab(folders).run(1)
    assert (details.record.dataset, details.record.model) == (SPEC.dataset, SPEC.model)
    assert details.class_names[0] == "top left"
    assert details.started is not None
    assert details.started.resolved.versions["reslab-spots"] == "1.2"


def test_a_package_that_is_not_installed_is_one_sentence(folders: Folders) -> None:
    with pytest.raises(DatasetError, match=r"no installed package reslab-spots provides spots .*reslab\.datasets"):
        Lab(folders).train(SPEC).wait()
    with pytest.raises(ModelError, match=r"no installed package reslab-spots provides spotnet .*reslab\.models"):
        Lab(folders).train(SPEC.replace(dataset="digits")).wait()
    with pytest.raises(SpecError, match="no architecture 'spotnet'"):
        find_model("spotnet")
    assert Lab(folders).runs() == []


@pytest.mark.usefixtures("installed")
def test_two_packages_with_one_name_are_told_apart(tmp_path: Path) -> None:
    about = tmp_path / "site" / "other-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[reslab.models]\nspotnet = nowhere:Net\nbad name = x:y\n")
    provided.cache_clear()
    with pytest.raises(SpecError, match="choose other:spotnet and reslab-spots:spotnet"):
        find_model("spotnet")
    assert len(provided("models")) == 2
    with pytest.raises(ModelError, match=r"other:spotnet \(nowhere:Net\): ModuleNotFoundError"):
        Lab(Folders(tmp_path, tmp_path, tmp_path)).train(RunSpec("digits", "other:spotnet")).wait()


def test_entry_points_are_read_for_names_that_no_table_has() -> None:
    names = loaded_by(
        "import engine.spec, tui.app, tui.screens.setup, sys\n"
        "for name in ('resnet18', 'vit_b_16', 'timm:resnet10t', './net.py:Net', 'net.toml', 'package:net'):\n"
        "    engine.spec.RunSpec('digits', name)\n"
        "sys.modules.update({f'{name}': None for name in ('entry',) if 'importlib.metadata' in sys.modules})"
    )
    assert "entry" not in names
    assert names.isdisjoint({"torch", "numpy", "timm"})


@pytest.mark.slow
@pytest.mark.usefixtures("installed", "one_thread")
def test_killed_and_resumed_it_is_the_run_that_was_never_killed(folders: Folders, tmp_path: Path) -> None:
    killed_resumed_and_compared(SPEC.replace(epochs=30, checkpoint_every=1), folders, tmp_path)
