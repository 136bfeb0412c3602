"""Runs of 0 epochs: given weights on a test set, and a run like any other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from engine.analysis.tables import result_table
from engine.cli import main
from engine.combinations import combine, seeds_of
from engine.control import RunControl
from engine.errors import ReslabError, SpecError
from engine.events import CheckpointSaved, Evaluated, RunEnded, RunStarted
from engine.forecast.duration import estimate_run
from engine.forecast.from_spec import plan_from_spec
from engine.lab import Lab
from engine.launch.backend import Job, Limit
from engine.launch.detached import Detached, Order
from engine.launch.scheduler import Scheduler, StoredQueue
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.records import RunDetails
from engine.spec import RunSpec
from tests.running import run_until

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = RunSpec("digits", "resnet20", epochs=1, dtype="float32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """With run 1, trained for one epoch, and run 2, which evaluates its weights."""
    root = tmp_path_factory.mktemp("trained")
    folders = Folders(root / "home", root / "data", root / "cache")
    Lab(folders).train(SPEC).wait()
    Lab(folders).evaluate(SPEC.replace(weights="run:1")).wait()
    return folders


def details_of(folders: Folders, run: int) -> RunDetails:
    return Lab(folders).run(run)


def refusal_of(folders: Folders, spec: RunSpec) -> str:
    """Why it was refused, with nothing recorded."""
    before = len(Lab(folders).runs())
    with pytest.raises(ReslabError) as refused:
        Lab(folders).train(spec).wait()
    assert len(Lab(folders).runs()) == before
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_weights_of_a_run_give_its_figures_again(trained: Folders) -> None:
    one, two = details_of(trained, 1), details_of(trained, 2)
    assert two.record.final == one.record.final
    assert (two.record.untrained, two.record.steps, two.record.status) == (None, 0, "completed")
    assert [(item.split, item.moment, item.epoch) for item in two.evaluations] == [("test", "final", 0)]
    assert two.started is not None
    assert two.started.num_steps == 0
    assert two.started.notes[0] == "weights of run 1: 97 tensors kept; fc kept: the same 10 classes"
    assert two.record.spec["weights"] == str(trained.run_folder(1) / "step-00000012.safetensors")
    assert result_table(two)[0] == ("", "evaluated")
    assert two.caveat is None


def test_an_evaluation_is_compared_predicts_and_is_exported_like_any_other_run(
    trained: Folders, tmp_path: Path
) -> None:
    from PIL import Image

    lab = Lab(trained)
    (verdict,) = lab.compare([1, 2]).comparison.verdicts
    assert (verdict.only_a_right, verdict.only_b_right) == (0, 0)
    Image.new("L", (8, 8), 100).save(tmp_path / "grey.png")
    guesses = [next(Lab(trained).predict(run, [tmp_path / "grey.png"])).guesses for run in (1, 2)]
    assert guesses[0] == guesses[1]
    target = lab.export(2, tmp_path / "exported")
    assert json.loads((target / "run.json").read_text())["final"]["accuracy"] > 0
    weights = details_of(trained, 2).weights
    assert weights is not None
    with safe_open(trained.run_folder(2) / weights.file, framework="pt") as file:
        assert not [name for name in file.keys() if name.startswith("optimizer.")]  # noqa: SIM118  # no dict
        assert json.loads(file.metadata()["reslab"])["classes"] == [str(digit) for digit in range(10)]


def test_only_the_test_set_is_evaluated_once_and_nothing_is_trained(trained: Folders) -> None:
    events = list(Lab(trained).evaluate(SPEC.replace(weights="run:1", val_share=0.1)).events())
    kinds = [type(event) for event in events]
    assert [(event.split, event.moment) for event in events if isinstance(event, Evaluated)] == [
        ("val", "epoch"), ("test", "final"),
    ]  # fmt: skip
    assert kinds.count(CheckpointSaved) == 1
    assert isinstance(events[-1], RunEnded)
    assert (events[-1].train_images_per_s, events[-1].untrained) == (None, None)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ("run:99", "there is no run 99"),
        ("run:3", "run 3 has no weights: it ended before any were saved"),
        ("run:4", "cannot read weights"),
        ("run:5", "is damaged"),
        ("run:6", "run 6 is still running"),
    ],
)
def test_a_run_without_usable_weights_is_one_sentence_and_no_run(weights: str, says: str, folders: Folders) -> None:
    from engine.store.store import Store

    folders.run_folder(5).mkdir(parents=True)
    (folders.run_folder(5) / "step-00000012.safetensors").write_bytes(b"damaged")
    with Store(folders.database) as store:
        for run in range(1, 7):
            assert store.create_run(SPEC) == run
            if run in (4, 5):
                store.record(CheckpointSaved(run, "step-00000012.safetensors", "0" * 64, 1, 12, 100))
            if run != 6:
                store.record(RunEnded(run, "completed", None, None, 1.0, None, 12))
        assert says in refusal_of(folders, SPEC.replace(weights=weights))  # run 6 is live while the store is open


def _folder(root: Path, *classes: str) -> str:
    """A dataset of random images of these classes."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(len(str(root)))
    for part in ("train", "test"):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for number in range(4):
                pixels = random.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return f"folder:{root}"


def test_a_run_is_evaluated_on_other_images_of_the_same_classes_alone(folders: Folders, tmp_path: Path) -> None:
    here = _folder(tmp_path / "here", "cat", "dog")
    Lab(folders).evaluate(RunSpec(here, "resnet20")).wait()  # a head for cats and dogs, whatever it knows of them
    spec = RunSpec(_folder(tmp_path / "there", "cat", "dog"), "resnet20", weights="run:1")
    there = next(event for event in Lab(folders).evaluate(spec).events() if isinstance(event, RunStarted))
    assert there.notes[0] == "weights of run 1: 97 tensors kept; fc kept: the same 2 classes"
    assert there.mean == next(item.mean for item in [details_of(folders, 1).started] if item)  # normalised as there
    others = RunSpec(_folder(tmp_path / "others", "cat", "wolf"), "resnet20", weights="run:1")
    ended = Lab(folders).evaluate(others).wait()
    assert ended is not None
    assert "does not fit these classes (other classes: number 2 was dog and is wolf)" in str(ended.error)
    kept = run_until(RunStarted, folders, others.replace(head="keep", epochs=0))
    assert "fc kept: other classes: number 2 was dog and is wolf, as set" in str(kept)


def test_seeds_change_nothing_in_an_evaluation_of_given_weights() -> None:
    spec = SPEC.replace(epochs=0, weights="run:1")
    with pytest.raises(SpecError, match="is the same for every seed"):
        list(seeds_of(spec, 2))
    with pytest.raises(SpecError, match="is the same for every seed"):
        combine(["digits"], ["resnet20"], spec_settings(spec), 2)
    assert len(list(seeds_of(spec, 1))) == 1
    assert len(list(seeds_of(spec.replace(weights="random"), 2))) == 2  # two untrained networks
    assert len(list(seeds_of(spec.replace(epochs=1), 2))) == 2


def spec_settings(spec: RunSpec) -> dict[str, Any]:
    return {name: value for name, value in spec.to_dict().items() if name not in ("dataset", "model")}


def test_a_forecast_of_an_evaluation_counts_no_training(folders: Folders) -> None:
    trains, evaluates = (plan_from_spec(SPEC.replace(epochs=epochs), folders, Ledger()) for epochs in (1, 0))
    assert trains.forecast is not None
    assert evaluates.forecast is not None
    assert (evaluates.forecast.gradients_bytes, evaluates.forecast.optimizer_bytes) == (0, 0)
    assert evaluates.forecast.peak_bytes < trains.forecast.peak_bytes


def test_the_duration_of_an_evaluation_is_estimated_from_its_images(trained: Folders) -> None:
    runs = Lab(trained).runs()
    trains, evaluates = (estimate_run(SPEC.replace(epochs=epochs), runs) for epochs in (1, 0))
    assert trains is not None
    assert evaluates is not None
    assert 0 < evaluates.seconds < trains.seconds


def test_zero_epochs_of_random_weights_are_the_untrained_network(folders: Folders) -> None:
    untrained = next(event for event in run_until(Evaluated, folders, SPEC) if isinstance(event, Evaluated))
    ended = Lab(folders).train(SPEC.replace(epochs=0)).wait()
    assert ended is not None
    assert ended.final == untrained.metrics


def test_an_evaluation_that_was_stopped_resumes_from_its_beginning(trained: Folders) -> None:
    spec = SPEC.replace(epochs=0, weights="run:1")
    stopped = run_until(RunStarted, trained, spec)
    assert isinstance(stopped[-1], RunEnded)
    assert stopped[-1].status == "stopped"
    events = list(Lab(trained).resume(stopped[-1].run).events())
    assert isinstance(events[-1], RunEnded)
    assert events[-1].final == details_of(trained, 1).record.final
    finals = [event for event in events if isinstance(event, Evaluated)]
    assert len(finals) == 1


@pytest.mark.slow
def test_a_detached_process_finds_the_run_itself(trained: Folders) -> None:
    job = Job(SPEC.replace(epochs=0, weights="run:1"))
    assert Order.from_json(Order(trained, (job,)).to_json()).jobs == (job,)
    ended = Detached(trained).start(job).wait()
    assert ended is not None
    assert ended.final == details_of(trained, 1).record.final
    with pytest.raises(ReslabError, match="there is no run 99"):
        Detached(trained).start(Job(job.spec.replace(weights="run:99"))).wait()


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    code = main([*argv], lambda opening: 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_evaluates_and_shows_one_column(
    trained: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESLAB_HOME", str(trained.home))
    monkeypatch.setenv("RESLAB_CACHE", str(trained.cache))
    (tmp_path / "spec.toml").write_text(SPEC.replace(epochs=30, warmup_epochs=5.0).to_toml())
    code, out, err = printed(capsys, "evaluate", "--spec", str(tmp_path / "spec.toml"), "--weights", "run:1")
    final = details_of(trained, 1).record.final
    assert final is not None
    assert code == 0
    assert "EVALUATED" in out
    assert f"{100 * final.accuracy:.3f} %" in out
    assert "UNTRAINED" not in out
    assert "weights of run 1: 97 tensors kept; fc kept: the same 10 classes" in err
    for wrong, says in (
        ((), "weights: missing; evaluate needs --weights PATH, run:NUMBER or imagenet"),
        (("--weights", "run:1", "--epochs", "2"), "epochs: evaluate trains nothing"),
        (("--weights", "run:x"), "weights: 'run:x' is not valid; expected run:NUMBER"),
    ):
        code, out, err = printed(capsys, "evaluate", "digits", "resnet20", *wrong)
        assert (code, out) == (2, "")
        assert err.startswith(f"reslab: {says}")


def test_the_queue_finds_the_run_when_its_turn_comes(folders: Folders) -> None:
    """An entry may name a run that is still ahead of it in the queue."""
    lab = Lab(folders)
    lab.enqueue([SPEC.replace(epochs=0), SPEC.replace(epochs=0, weights="run:1")])
    for _ in Scheduler(StoredQueue(folders), lab.backend, Limit(), folders).events(RunControl()):
        pass
    two, one = lab.runs()
    assert two.status == one.status == "completed"
    assert two.final == one.final
