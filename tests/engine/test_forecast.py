"""The forecast against torch's own allocator, its words, and what earlier runs teach it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses import FakeTensorMode

from engine.analysis.tables import facts
from engine.catalog.models import MODELS, MORE_MODELS, ModelInfo, choose_stem, count_parameters, find_model
from engine.cli import main
from engine.device import Placement
from engine.errors import DatasetError, ModelError
from engine.events import MemoryForecasted, MemoryRecovered, RunEnded, RunStarted
from engine.forecast import step_memory as forecast_module
from engine.forecast.from_spec import expected_bytes, plan_from_spec
from engine.forecast.memory_plan import Plan, plan_run
from engine.forecast.step_memory import Step, forecast, resident_bytes
from engine.forecast.timeline import BYTES_FIELDS, Forecast
from engine.lab import Lab
from engine.launch.ray.request import request_for
from engine.memory.calibration import Calibration
from engine.memory.ledger import Holding, Ledger
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.store.store import Store
from tests.benchmarks.forecasting import measure
from tests.engine.test_datasets import make_folder
from tests.fakes import RESOLVED, started

CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "test")
PHOTOS = DataShape(3, 64, 64, 2)
MIB = 2**20


def of(spec: RunSpec, shape: DataShape = PHOTOS, **more: Any) -> Forecast:
    return forecast(Step(spec, shape, CPU), **more)


@pytest.mark.parametrize(
    ("model", "batch", "size"),
    [
        ("resnet20", 64, 28),
        pytest.param("resnet18", 16, 64, marks=pytest.mark.slow),
        pytest.param("plain20", 128, 28, marks=pytest.mark.slow),
    ],
)
def test_it_is_what_the_allocator_reaches(model: str, batch: int, size: int) -> None:
    said = of(RunSpec("digits", model, batch_size=batch), DataShape(3, size, size, 10))
    assert said.peak_bytes == pytest.approx(measure(model, batch, size), rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)])
def test_other_layouts_and_types_are_forecast_too(dtype: torch.dtype) -> None:
    placement = Placement(CPU.device, dtype, torch.channels_last, "test")
    spec, shape = RunSpec("digits", "resnet20", batch_size=64), DataShape(3, 28, 28, 10)
    said = forecast(Step(spec, shape, placement))
    assert said.peak_bytes == pytest.approx(measure("resnet20", 64, 28, placement), rel=0.1)


def test_its_parts_add_up_and_are_what_they_are_called() -> None:
    spec = RunSpec("cats-dogs", "resnet18", batch_size=16, image_size=64)
    weights = 4 * ((find_model("resnet18").num_parameters or 0) - 998 * 513)
    said = of(spec)
    parts = [getattr(said, name) for name in BYTES_FIELDS if name != "peak_bytes"]
    assert sum(parts) == said.peak_bytes
    assert weights < said.parameters_bytes < 1.01 * weights
    assert weights <= said.optimizer_bytes < 1.01 * weights
    assert said.activations_bytes > 0
    adam = of(spec.replace(optimizer="adam"))
    assert adam.optimizer_bytes == pytest.approx(2 * weights, rel=0.01)
    assert of(spec.replace(momentum=0.0)).optimizer_bytes == 0
    learnt = Calibration(context_bytes=7 * MIB, workspace_bytes=5 * MIB)
    whole = forecast(Step(spec, PHOTOS, CPU, 123 * MIB, learnt))
    assert whole.peak_bytes == said.peak_bytes + 135 * MIB
    assert whole.allocator_bytes == whole.peak_bytes - 7 * MIB


@pytest.mark.slow
def test_more_images_and_activations_kept_take_more() -> None:
    spec = RunSpec("cats-dogs", "resnet50", batch_size=64)
    whole = of(spec)
    assert of(spec, micro_batch=16).peak_bytes < whole.peak_bytes
    assert of(spec, recompute=True).peak_bytes < 0.8 * whole.peak_bytes
    assert of(spec.replace(weights="x", freeze="backbone")).optimizer_bytes < whole.optimizer_bytes / 100


def test_it_draws_nothing_from_torchs_random_state() -> None:
    before = torch.random.get_rng_state()
    of(RunSpec("digits", "resnet32", batch_size=48))
    assert torch.random.get_rng_state().equal(before)


def test_a_forecast_that_cannot_be_made_is_one_sentence_and_no_reason_not_to_train(
    folders: Folders, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> Any:
        raise AttributeError("torch has changed")

    monkeypatch.setattr(forecast_module, "forecast_step", refuse)
    assert main(("forecast", "digits", "resnet20"), lambda *arguments: 0) == 2
    assert capsys.readouterr().err == (
        "reslab: no memory forecast for resnet20: AttributeError, details in reslab.log\n"
    )
    events = list(Lab(folders).train(RunSpec("digits", "resnet20", epochs=1)).events())
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "completed"
    assert not any(isinstance(event, MemoryForecasted) for event in events)


def test_a_table_made_while_building_can_be_viewed_in_an_evaluation() -> None:
    """As Swin and MaxViT look up where one patch lies from another."""
    storages = forecast_module._Storages()
    with FakeTensorMode(allow_non_fake_inputs=True), storages:
        table = torch.arange(4) + torch.tensor(1)
        storages.timeline.moment = "evaluation"
        with torch.inference_mode():
            assert table.view(2, 2).shape == (2, 2)
        assert (table.view(-1) * torch.ones(4)).shape == (4,)


@pytest.mark.slow
@pytest.mark.parametrize("info", [*MODELS, *MORE_MODELS], ids=lambda info: info.name)
def test_every_network_is_forecast(info: ModelInfo) -> None:
    side = info.multiple * -(-max(info.min_size, 64) // info.multiple)
    spec, shape = RunSpec("digits", info.name, batch_size=4), DataShape(3, side, side, 10)
    weights = 4 * (count_parameters(info, shape, choose_stem(info, spec.stem, shape)) or 0)
    assert weights
    assert of(spec, shape).peak_bytes > 3 * weights  # and their gradients, and the momentum


def with_bound(monkeypatch: pytest.MonkeyPatch, num_bytes: float) -> None:
    monkeypatch.setenv("RESLAB_MEMORY_GIB", str(num_bytes / 2**30))


def planned(monkeypatch: pytest.MonkeyPatch, room: float, ledger: Ledger | None = None, **changes: Any) -> Plan:
    with_bound(monkeypatch, room)
    return plan_run(Step(ROOMY.replace(**changes), PHOTOS, CPU), ledger or Ledger())


ROOMY = RunSpec("cats-dogs", "resnet18", batch_size=64)


def test_the_words_are_those_of_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = of(ROOMY).peak_bytes
    assert planned(monkeypatch, 1.01 * peak).words == "fits"
    assert planned(monkeypatch, 0.99 * peak).words == "fits with micro-batches of 32"
    assert planned(monkeypatch, 0.99 * peak, on_oom="fail").words == "will not fit"


@pytest.mark.slow
def test_so_they_are_where_activations_can_be_computed_twice_and_where_there_is_something_to_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peak = of(ROOMY).peak_bytes
    assert planned(monkeypatch, 0.99 * peak, on_oom="checkpoint").words == "fits with activations computed twice"
    twice = of(ROOMY, recompute=True).peak_bytes
    plan = planned(monkeypatch, 0.98 * twice, on_oom="checkpoint")
    assert (plan.fit, plan.micro_batch, plan.recompute) == ("micro-batches", 32, True)
    assert planned(monkeypatch, 20 * MIB).words == "will not fit"
    ledger = Ledger()
    ledger.hold("old", object(), Holding("model", "resnet50", 1, (("parameters", peak // 2),), live=False))
    assert planned(monkeypatch, 1.3 * peak, ledger).words == f"fits after freeing {0.2 * peak / MIB:.1f} MiB"


@pytest.mark.slow
@pytest.mark.parametrize("batch", [64, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 512))])
def test_the_largest_batch_fits_and_a_larger_one_does_not(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    spec = RunSpec("cats-dogs", "resnet18", batch_size=batch)
    room = 400 * MIB
    with_bound(monkeypatch, room)
    largest = plan_run(Step(spec, PHOTOS, CPU), Ledger()).largest_batch
    assert largest > 100
    assert of(spec.replace(batch_size=largest)).peak_bytes <= room
    assert of(spec.replace(batch_size=round(1.02 * largest))).peak_bytes > room
    with_bound(monkeypatch, 20 * MIB)
    assert plan_run(Step(spec, PHOTOS, CPU), Ledger()).largest_batch == 0


def test_what_is_asked_of_a_dataset_needs_no_images(folders: Folders, tmp_path: Path) -> None:
    shape = DataShape(1, 8, 8, 10)
    assert expected_bytes(RunSpec("mnist", "resnet18", image_size=8)) == (shape, resident_bytes(70_000, shape))
    folder = make_folder(tmp_path / "mine", {"ant": 3, "bee": 4})
    shape, num_bytes = expected_bytes(RunSpec(f"folder:{folder}", "resnet18"))
    assert (shape, num_bytes) == (DataShape(3, 10, 12, 2), resident_bytes(7, shape))
    with pytest.raises(DatasetError):
        expected_bytes(RunSpec(f"folder:{tmp_path / 'nowhere'}", "resnet18"))
    with pytest.raises(ModelError, match="at least 63 pixels"):
        plan_from_spec(RunSpec("mnist", "alexnet"), folders, Ledger())
    plan = plan_from_spec(RunSpec("mnist", "resnet20"), folders, Ledger())
    assert plan.forecast is not None
    assert plan.forecast.dataset_bytes == resident_bytes(70_000, DataShape(1, 28, 28, 10))


@pytest.mark.slow
def test_the_command_prints_it_and_its_exit_code_says_whether_it_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def reslab(*words: str) -> tuple[int, str]:
        code = main(words, lambda *arguments: 0)
        return code, capsys.readouterr().out

    code, out = reslab("forecast", "digits", "resnet20", "--batch-size", "64", "--json")
    found = json.loads(out)
    assert code == 0
    assert set(BYTES_FIELDS) <= found.keys()
    assert found["peak_bytes"] == sum(found[name] for name in BYTES_FIELDS if name != "peak_bytes")
    assert found["verdict"] == "fits"
    with_bound(monkeypatch, 2 * MIB)
    code, out = reslab("forecast", "digits", "resnet20", "--batch-size", "64")
    assert code == 1
    assert "for tensors, 2.0 MiB available for them" in out


def record(store: Store, device: str, said: MemoryForecasted, peak: int, context: int | None) -> None:
    spec = RunSpec("digits", "resnet18")
    number = store.create_run(spec)
    event = started(spec, number)
    resolved = event.resolved.__class__(**{**_fields(event.resolved), "device": "cuda:0", "device_name": device})
    store.record(RunStarted(**{**_fields(event), "resolved": resolved}))
    store.record(MemoryForecasted(**{**_fields(said), "run": number}))
    store.record(MemoryRecovered(number, 3, "training in micro-batches of 64", 64, False, 10))
    store.record(RunEnded(number, "completed", None, None, 1.0, None, 1, None, peak, context))


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def test_runs_on_a_gpu_teach_the_next_forecast_there(folders: Folders) -> None:
    said = MemoryForecasted(0, 900 * MIB, 100 * MIB, 0, 0, 300 * MIB, 0, 50 * MIB, 450 * MIB, None, 0)
    with Store(folders.database) as store:
        for extra, context in ((90, 500), (110, 520), (400, 510)):
            record(store, "NVIDIA Test", said, (400 + extra) * MIB, context * MIB)
        record(store, "a processor", said, 77 * MIB, None)
        assert store.calibration("NVIDIA Test") == Calibration(510 * MIB, 110 * MIB, 3)
        assert store.calibration("a processor") is None
        assert store.calibration("another") is None
        details = store.details(1)
    assert details.memory.forecast is not None
    assert details.memory.forecast.peak_bytes == 900 * MIB
    assert (details.memory.peak_bytes, details.memory.micro_batch) == (490 * MIB, 64)
    assert details.intact
    assert details.caveat == "trained in micro-batches of 64: batch-norm statistics differ"


@pytest.mark.slow
def test_a_run_on_a_cluster_asks_for_what_its_forecast_says() -> None:
    spec = RunSpec("digits", "resnet50", device="cpu")
    here, small = request_for(spec, None, 2**40), request_for(spec.replace(batch_size=16), None, 2**40)
    assert here.options() == {"num_cpus": 1, "memory": here.memory}
    assert small.memory < here.memory
    assert request_for(spec, None, 2**30).memory == 2**30  # more than any node has
    assert here.bound is not None
    assert 0 < here.bound < here.memory
    large, little = request_for(spec, 80 * 2**30, 0), request_for(spec, 2**29, 0)
    assert 0 < large.gpus < 0.1
    assert little.gpus == 1
    assert large.options() == {"num_cpus": 1, "num_gpus": large.gpus}
    untold = request_for(spec, 0, 0)
    assert (untold.gpus, untold.bound) == (1, None)


def ended(number: int, **measured: Any) -> RunEnded:
    return RunEnded(number, "completed", None, None, 1.0, None, 1, **measured)


SAID = MemoryForecasted(1, 914 * MIB, 100 * MIB, 0, 0, 300 * MIB, 0, 50 * MIB, 464 * MIB, None, 0)


def memory_lines(folders: Folders, device: str, *told: Any) -> dict[str, str]:
    """The facts of a run on `device` that has `told` this of its memory."""
    resolved = dataclasses.replace(RESOLVED, device=device)
    with Store(folders.database) as store:
        number = store.create_run(RunSpec("digits", "resnet18"))
        store.record(dataclasses.replace(started(RunSpec("digits", "resnet18"), number), resolved=resolved))
        for event in told:
            store.record(event)
        return dict(facts(store.details(number), folders.home))


def test_on_a_gpu_allocator_stands_beside_allocator_and_context_beside_context(folders: Folders) -> None:
    found = memory_lines(folders, "cuda:0", SAID, ended(1, peak_bytes=490 * MIB, context_bytes=500 * MIB))
    assert found["tensors"] == "forecast 450.0 MiB, measured 490.0 MiB"
    assert found["driver"] == "forecast 464.0 MiB, measured 500.0 MiB"
    assert "process" not in found


@pytest.mark.parametrize("field", ["grown_bytes", "peak_bytes"], ids=["now", "as an earlier version recorded it"])
def test_on_a_cpu_the_growth_of_the_process_is_no_counterpart_of_the_forecast(folders: Folders, field: str) -> None:
    said = dataclasses.replace(SAID, context_bytes=0, peak_bytes=450 * MIB)
    found = memory_lines(folders, "cpu", said, ended(1, **{field: 216 * MIB}))
    assert found["tensors"] == "forecast 450.0 MiB"
    assert found["process"].startswith("grew by 216.0 MiB")
    assert "driver" not in found


def test_a_run_on_a_cpu_measures_how_the_process_grew_and_no_allocator(folders: Folders) -> None:
    *_, end = Lab(folders).train(RunSpec("digits", "resnet20", epochs=1, batch_size=512)).events()
    assert isinstance(end, RunEnded)
    assert (end.peak_bytes, end.context_bytes) == (None, None)
    with Store(folders.database) as store:
        details = store.details(1)
    memory = details.memory
    assert (memory.peak_bytes, memory.grown_bytes) == (None, end.grown_bytes)
    assert ", measured" not in dict(facts(details, folders.home))["tensors"]
