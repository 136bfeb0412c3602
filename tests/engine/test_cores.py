"""How a run shares the processor: threads by what others leave, and no spinning while others take cores."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine import cores, device
from engine.cores import bound_spinning, fair_num_threads, threads_text, usable_cores
from engine.device import Placement, share_cores


def test_a_persons_own_choice_is_left_as_it_is() -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"):
        chosen = {name: "1"}
        bound_spinning(chosen)
        assert chosen == {name: "1"}
    unset: dict[str, str] = {}
    bound_spinning(unset)
    assert int(unset["GOMP_SPINCOUNT"]) > 0


def test_importing_the_engine_bounds_spinning_before_torch_is_loaded() -> None:
    said = "import sys, os, engine; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    out = subprocess.run((sys.executable, "-c", said), check=True, capture_output=True, text=True, env=clean).stdout
    assert out.split() == ["100000", "False"]


@pytest.mark.parametrize(
    ("most", "usable", "others", "threads"),
    [
        (2, 2, 0.0, 2), (2, 2, 0.3, 2), (2, 2, 1.0, 1), (2, 2, 2.0, 1), (16, 16, 1.0, 15), (16, 16, 16.0, 8),
        (1, 8, 0.0, 1), (4, 16, 3.0, 4), (64, 4, 0.0, 4), (64, 4, None, 4), (1, 1, 1.0, 1),
    ],
)  # fmt: skip
def test_threads_are_those_for_which_there_are_cores(
    most: int, usable: int, others: float | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    assert fair_num_threads(most, others) == threads


@pytest.mark.parametrize(("text", "expected"), [("max 100000", None), ("150000 100000", 1.5), ("nonsense", None)])
def test_a_container_says_how_much_time_it_has(text: str, expected: float | None, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cores.container_cores(tmp_path) == expected


def test_the_older_kind_of_container_says_so_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cores.container_cores(tmp_path) == 4
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores.container_cores(tmp_path) is None
    assert cores.container_cores(tmp_path / "none") is None


class Busy:
    """Others that keep so many cores busy."""

    def __init__(self, others: float) -> None:
        self._others = others

    def read(self) -> float:
        return self._others


def test_a_run_beside_others_starts_with_fewer_threads_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    placement = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "a test")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert share_cores(placement, Busy(0.1)) == placement  # type: ignore[arg-type]
        shared = share_cores(placement, Busy(1.0))  # type: ignore[arg-type]
        assert torch.get_num_threads() == 1
        assert shared == replace(placement, threads_reason="others use 1.0 of 2 cores")
        torch.set_num_threads(2)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        assert share_cores(placement, Busy(1.0)) == placement  # type: ignore[arg-type]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_others_use_is_counted_and_our_own_work_is_not() -> None:
    meter = cores.OthersMeter()
    alone = subprocess.run((sys.executable, "-c", "sum(range(10_000_000))"), check=True)  # a child of our own
    assert alone.returncode == 0
    found = meter.read()
    assert found is not None
    assert 0 <= found <= usable_cores() + 0.5


def test_while_others_take_cores_no_thread_spins(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more thread than there are cores is what libgomp stops spinning for; it goes once the cores are free."""
    stages: list[str] = []

    class Crowd:
        def __init__(self, library: object, num_threads: int) -> None:
            stages.append(f"{num_threads} came")

        def leave(self) -> None:
            stages.append("left")

    class Over:
        """Six looks."""

        def __init__(self) -> None:
            self.looks = 0

        def wait(self, seconds: float) -> bool:
            self.looks += 1
            clock[0] += seconds
            return self.looks > len(waited)

    clock, waited = [0.0], [0.01, 0.4, 0.4, 0.0, 0.0, 0.0, 0.0, 0.01]
    readings = iter([0.0, *waited])
    monkeypatch.setattr(cores, "seconds_waited", lambda before: next(readings))
    monkeypatch.setattr(cores, "Crowd", Crowd)
    monkeypatch.setattr(cores.time, "monotonic", lambda: clock[0])  # type: ignore[attr-defined]
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    cores._watch(None, 2, Over())  # type: ignore[arg-type]
    assert stages == ["2 came", "left"]


def test_doctor_says_how_threads_wait() -> None:
    assert "GOMP_SPINCOUNT=7" in threads_text(2, {"GOMP_SPINCOUNT": "7"})
    assert "wait as the library decides" in threads_text(2, {"OMP_WAIT_POLICY": "ACTIVE"})


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_threads_that_stop_the_spinning_come_and_go() -> None:
    import torch

    torch.zeros(1)
    library = cores._libgomp()
    if library is None:
        pytest.skip("this torch uses another library than libgomp")
    before = len(os.listdir("/proc/self/task"))
    crowd = cores.Crowd(library, 3)
    while len(os.listdir("/proc/self/task")) < before + 3:  # its own, and two of libgomp's
        assert crowd.stays
    crowd.leave()
    while len(os.listdir("/proc/self/task")) > before:
        assert not crowd.stays
