"""Gauges through a fake driver, the ledger, and freeing that is measured."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest

from engine.memory import headroom
from engine.memory.freeing import free_memory
from engine.memory.gauges import Gauges, process_bytes, read_host
from engine.memory.ledger import Holding, Ledger
from tests.fakes import GIB, FakeNvml


def test_every_gpu_is_read() -> None:
    reading = Gauges(lambda: FakeNvml(num_gpus=2)).read()
    assert [gpu.name for gpu in reading.gpus] == ["NVIDIA Test 0", "NVIDIA Test 1"]
    gpu = reading.gpus[0]
    assert (gpu.total_bytes, gpu.process_bytes, gpu.others_bytes, gpu.free_bytes) == (
        24 * GIB,
        6 * GIB,
        3 * GIB,
        15 * GIB,
    )
    assert (gpu.temperature_c, gpu.utilisation_percent) == (61, 98)
    assert gpu.power_w == pytest.approx(212.345)
    assert reading.no_gpu is None


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetUtilizationRates", "utilisation_percent"),
        ("nvmlDeviceGetComputeRunningProcesses", "process_bytes"),
        ("nvmlDeviceGetMemoryInfo", "total_bytes"),
    ],
)
def test_what_a_card_does_not_say_is_none(function: str, field: str) -> None:
    gpu = Gauges(lambda: FakeNvml(silent=[function])).read().gpus[0]
    assert getattr(gpu, field) is None
    assert gpu.name == "NVIDIA Test 0"


def test_a_driver_that_is_missing_or_lost_is_said_and_not_raised() -> None:
    def missing() -> None:
        raise OSError("libnvidia-ml.so.1: cannot open shared object file")

    reading = Gauges(missing).read()
    assert reading.gpus == ()
    assert "cannot open" in str(reading.no_gpu)
    gauges = Gauges(lambda: FakeNvml(lost_after=1))
    assert gauges.read().gpus
    assert gauges.read().gpus == ()
    assert gauges.no_gpu == "NVML no longer answers (GPU is lost)"


def test_the_host_reading_is_of_this_machine() -> None:
    host = read_host()
    assert 0 < host.process_bytes <= host.used_bytes < host.total_bytes


class Thing:
    pass


def test_the_ledger_lets_go_of_what_is_idle_and_of_nothing_else() -> None:
    ledger = Ledger()
    things = {name: Thing() for name in ("old", "new", "data")}
    gone = {name: weakref.ref(thing) for name, thing in things.items()}
    ledger.hold("old", things["old"], Holding("model", "resnet18", 1, (("parameters", 10),), live=True))
    ledger.finish(1)
    ledger.hold("data", things["data"], Holding("dataset", "digits", 2, (("dataset", 10),), live=True))
    ledger.hold("new", things["new"], Holding("model", "resnet50", 2, (("parameters", 10),), live=True))
    things.clear()
    dropped = ledger.drop_idle()
    assert [holding.label for holding in dropped] == ["resnet18"]
    assert (gone["old"](), gone["new"]() is None, gone["data"]() is None) == (None, False, False)
    assert [holding.label for holding in ledger.holdings()] == ["resnet50", "digits"]


def test_freeing_reports_what_came_free_by_measurement() -> None:
    ledger = Ledger()
    ledger.hold(
        "data", np.ones(200 * 2**20 // 8), Holding("dataset", "big", 1, (("dataset", 200 * 2**20),), live=False)
    )
    before = process_bytes()
    freed = free_memory(ledger)
    assert [holding.label for holding in freed.dropped] == ["big"]
    assert freed.host_bytes > 150 * 2**20
    assert before - process_bytes() > 150 * 2**20
    assert free_memory(ledger).dropped == ()


def test_what_a_live_run_needs_stays() -> None:
    ledger = Ledger()
    ledger.hold("data", Thing(), Holding("dataset", "digits", 1, (("dataset", 10),), live=True))
    assert free_memory(ledger).dropped == ()
    assert ledger.get("data") is not None


def test_a_container_leaves_what_the_tightest_of_its_groups_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that the system keeps in memory are let go where memory is asked for; "max" is no bound."""
    for group, most, used, kept in (
        (tmp_path, "max", 900, 0), (tmp_path / "job", "800", 500, 100), (tmp_path / "job" / "step", "1000", 400, 0),
    ):  # fmt: skip
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(f"{most}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"anon 5\ninactive_file {kept}\n")
    (tmp_path / "own").write_text("0::/job/step\n")
    monkeypatch.setattr(headroom, "GROUPS", tmp_path)
    monkeypatch.setattr(headroom, "OWN_GROUP", tmp_path / "own")
    assert headroom.container_headroom() == 400
    (tmp_path / "own").write_text("0::/\n")
    assert headroom.container_headroom() == 2**62
    (tmp_path / "own").unlink()
    assert headroom.container_headroom() == 2**62
