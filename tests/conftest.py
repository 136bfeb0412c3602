"""What all tests share: folders of their own, the real data where it is available, and a clean environment."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml
import pytest
from hypothesis import settings

from engine.control import Control
from engine.cores import usable_cores
from engine.paths import Folders
from engine.spec import RunSpec

settings.register_profile("reslab", deadline=None)  # how long an example takes is no test of anything
settings.load_profile("reslab")

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores: two threads in each would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Only the tests marked so see a GPU; all others say what happens without one, on every machine."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests also wait, for processes and for screens."""
    return usable_cores() + 1


SUITES = ("cluster", "timm", "reliability", "slow")
"""Each needs all that those after it need. A test with several of these marks belongs to the first alone."""


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        first, *others = [*filter(item.get_closest_marker, SUITES), ""]
        item.own_markers = [mark for mark in item.own_markers if mark.name == first or mark.name not in others]


def pytest_collection_finish() -> None:
    """What all tests share stays: else each collection of garbage, and there are many, looks through all of torch."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # an app makes and drops thousands of objects


def pytest_unconfigure() -> None:
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-screens", action="store_true", help="store the screens as they are now")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test touches a person's own runs, data or clock."""
    monkeypatch.setenv("RESLAB_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RESLAB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("RESLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RESLAB_TUNE", "0")  # float32, whatever the machine
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.delenv("NO_COLOR", raising=False)
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        monkeypatch.setattr("engine.memory.gauges.nvml_library", _no_driver)


def _no_driver() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For runs that are compared to the last bit: how many threads a run takes hangs on what others do just now."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(home=tmp_path / "home", data=tmp_path / "data", cache=tmp_path / "cache")


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the digits, 180 to train on and 45 to test: for what hangs on steps, not on what is learnt."""
    import torch

    from engine.data import digits

    whole = digits.load

    def load(spec: RunSpec, folders: Folders, control: Control) -> Any:
        images = yield from whole(spec, folders, control)
        return replace(images, train=images.train.take(torch.arange(180)), test=images.test.take(torch.arange(45)))

    monkeypatch.setattr(digits, "load", load)


@pytest.fixture
def real_data() -> Path:
    """A folder with MNIST's raw files and PetImages/{Cat,Dog}."""
    folder = os.environ.get("RESLAB_TEST_DATA")
    if not folder:
        pytest.skip("RESLAB_TEST_DATA names no folder of real images")
    return Path(folder).absolute()
