"""Gauges that never raise: whatever the driver says, and for hours."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pynvml
import pytest

from engine.events import plain
from engine.memory.gauges import Gauges
from engine.memory.node_gauges import nodes_path, read_nodes
from tests.fakes import GIB, FakeNvml

ERRORS = sorted(value for name, value in vars(pynvml).items() if name.startswith("NVML_ERROR_"))


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("call", [1, 2, 10])
def test_every_error_of_the_driver_at_any_call_is_lived_with(code: int, call: int) -> None:
    gauges = Gauges(lambda: FakeNvml(fails_at=call, error=pynvml.NVMLError(code)))
    readings = [gauges.read() for _ in range(5)]
    assert all(reading.host.total_bytes > 0 for reading in readings)
    if call > 1:  # a driver that could be opened is asked again
        assert readings[-1].gpus[0].used_bytes == 9 * GIB
        assert readings[-1].no_gpu is None
    else:
        assert "no NVIDIA GPU" in str(readings[-1].no_gpu)


@pytest.mark.parametrize("code", ERRORS)
def test_a_driver_that_stays_lost_is_said(code: int) -> None:
    nvml = FakeNvml()
    gauges = Gauges(lambda: nvml)
    assert gauges.read().gpus
    nvml.fails_at, nvml.error = nvml.calls + 1, pynvml.NVMLError(code)
    reading = gauges.read()
    assert reading.gpus == ()
    assert "NVML no longer answers" in str(reading.no_gpu)


@pytest.mark.parametrize("hours", [0.5, pytest.param(4, marks=pytest.mark.slow)])
def test_hours_of_readings_leave_nothing_behind(hours: float) -> None:
    """A reading a second of a card that fails now and then; the time is simulated. Descriptors and memory stay flat."""
    nvml = FakeNvml(num_gpus=2)
    gauges = Gauges(lambda: nvml)

    def read(number: int) -> None:
        for turn in range(number):
            if turn % 100 == 0:
                nvml.fails_at, nvml.error = nvml.calls + 3, pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
            gauges.read()

    read(300)
    gc.collect()  # what earlier tests left open is closed by now
    descriptors = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    read(200)
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    read(round(hours * 3600) - 700)
    tracemalloc.start()
    read(200)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert after < before + 20_000


def test_others_are_named_and_a_slowed_down_card_says_why() -> None:
    gpu = Gauges(lambda: FakeNvml(throttled=0x4 | 0x40)).read().gpus[0]
    assert gpu.throttled == "power cap, too hot"
    ((name, held),) = gpu.others
    assert name
    assert held == 3 * GIB
    assert Gauges(lambda: FakeNvml(throttled=0x1)).read().gpus[0].throttled is None  # idle is no fault


def test_a_card_cut_by_mig_says_so() -> None:
    assert Gauges(lambda: FakeNvml(mig=True)).read().gpus[0].notes == ("MIG: figures are for the whole card",)


def test_where_the_driver_hides_the_processes_this_ones_share_is_unknown() -> None:
    gpu = Gauges(lambda: FakeNvml(hidden=True)).read().gpus[0]  # Windows and WSL2
    assert (gpu.process_bytes, gpu.others_bytes) == (None, None)
    assert gpu.used_bytes == 9 * GIB


def fake_torch(**cuda: Any) -> Any:
    def snapshot() -> list[dict[str, Any]]:
        blocks = [{"size": 2 * GIB, "state": "inactive"}, {"size": 3 * GIB, "state": "active_allocated"}]
        return [{"device": 0, "blocks": blocks}, {"device": 1, "blocks": [{"size": 9 * GIB, "state": "inactive"}]}]

    answers = {
        "is_initialized": lambda: True, "mem_get_info": lambda index: (4 * GIB, 16 * GIB),
        "memory_allocated": lambda index: 3 * GIB, "memory_reserved": lambda index: 5 * GIB,
        "memory_snapshot": snapshot,
    }  # fmt: skip
    module = ModuleType("torch")
    module.cuda = SimpleNamespace(**{**answers, **cuda})  # type: ignore[attr-defined]
    return module


def test_torchs_own_figures_stand_beside_the_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    allocator = Gauges(FakeNvml).read().gpus[0].allocator
    assert allocator is not None
    assert (allocator.allocated_bytes, allocator.reserved_bytes, allocator.largest_free_bytes) == (
        3 * GIB, 5 * GIB, 2 * GIB,
    )  # fmt: skip


def test_where_nvml_has_no_memory_figure_torchs_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on machines whose GPU shares the host's memory."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    gpu = Gauges(lambda: FakeNvml(silent=["nvmlDeviceGetMemoryInfo"])).read().gpus[0]
    assert (gpu.total_bytes, gpu.used_bytes) == (16 * GIB, 12 * GIB)
    assert "showing torch's" in gpu.notes[0]


def test_a_torch_that_has_used_no_gpu_is_not_made_to_use_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AssertionError("asked")

    asked = fake_torch(is_initialized=lambda: False, mem_get_info=refuse, memory_allocated=refuse)
    monkeypatch.setitem(sys.modules, "torch", asked)
    assert Gauges(FakeNvml).read().gpus[0].allocator is None


def test_an_allocator_that_fails_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    broken = fake_torch(memory_snapshot=fail, mem_get_info=fail)
    monkeypatch.setitem(sys.modules, "torch", broken)
    gpu = Gauges(lambda: FakeNvml(silent=["nvmlDeviceGetMemoryInfo"])).read().gpus[0]
    assert gpu.allocator is None
    assert gpu.total_bytes is None


def test_the_gauges_of_other_machines_are_read_from_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "here")
    reading = Gauges(lambda: FakeNvml(num_gpus=2)).read()
    written = [{"name": name, "reading": plain(reading)} for name in ("here", "gpu-17")]
    nodes_path(tmp_path).write_text(json.dumps(written))
    (node,) = read_nodes(tmp_path)
    assert (node.name, node.host) == ("gpu-17", reading.host)
    assert node.gpus == tuple(replace(gpu, allocator=None) for gpu in reading.gpus)
    for text in ("", "{", "[1]", '[{"name": "a"}]', '[{"name": "a", "reading": {"gpus": [{}], "host": {}}}]'):
        nodes_path(tmp_path).write_text(text)
        assert read_nodes(tmp_path) == ()
    nodes_path(tmp_path).write_text(json.dumps(written))
    long_ago = time.time() - 60  # whoever wrote it is gone
    os.utime(nodes_path(tmp_path), (long_ago, long_ago))
    assert read_nodes(tmp_path) == ()
