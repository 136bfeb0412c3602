"""What `--dtype auto` measures, takes, keeps and leaves alone. Which form is quickest here, no test may say."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from itertools import count

import pytest
import torch

from engine.analysis.tables import choice_text, facts
from engine.cli import main
from engine.control import RunControl
from engine.cores import OthersMeter
from engine.device import Placement
from engine.events import Event, RunContinued, RunEnded, RunStarted, SettingsTuned, StepsCompleted, TuningChecked
from engine.forecast.memory_plan import Plan, fit_run
from engine.forecast.step_memory import Step
from engine.lab import Lab
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.learner import Learner
from engine.store.store import Store
from engine.training import autotune as tuning
from engine.training import loop as train
from engine.training import setup
from engine.training.autotune import autotune_key, is_tunable
from tests.running import run_until

CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "test")
pytestmark = pytest.mark.usefixtures("few_digits")
SPEC = RunSpec("digits", "resnet20", epochs=1, batch_size=32)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Placement, int], float]], None]:
    """Lets a test say how long a step takes in each form, in hundredths of a second; no step is made."""
    monkeypatch.setenv("RESLAB_TUNE", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(OthersMeter, "read", lambda self: 0.0)
    monkeypatch.setattr("engine.training.autotune.perf_counter", lambda: 0.0)

    def say(of: Callable[[Placement, int], float]) -> None:
        def timed(self: tuning.Trial, candidate: tuning.Candidate, learner: Learner, num_steps: int) -> float:
            return of(candidate.placement, candidate.num_threads) / 100

        monkeypatch.setattr(tuning.Trial, "time_steps", timed)

    return say


def collect(folders: Folders, spec: RunSpec = SPEC) -> list[Event]:
    return list(Lab(folders).train(spec).events())


def set_up(folders: Folders, spec: RunSpec = SPEC) -> list[Event]:
    """As `collect`, stopped when the run is ready."""
    return run_until(RunStarted, folders, spec)


def tuned(events: list[Event]) -> list[SettingsTuned]:
    return [event for event in events if isinstance(event, SettingsTuned)]


def started(events: list[Event]) -> RunStarted:
    return next(event for event in events if isinstance(event, RunStarted))


def test_the_quickest_form_is_taken_recorded_and_not_measured_again(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 1.0 if placement.memory_format is torch.channels_last else 2.0)
    first = collect(folders)
    (found,) = tuned(first)
    assert (found.dtype, found.memory_format, found.num_threads) == ("float32", "channels_last", 4)
    assert found.gain == 2
    assert started(first).resolved.memory_format == "channels_last"
    assert started(first).resolved.gain == 2
    seconds(lambda placement, threads: 1.0)
    again = collect(folders)
    assert not tuned(again)
    assert started(again).resolved == started(first).resolved
    losses = [[event.losses for event in events if isinstance(event, StepsCompleted)] for events in (first, again)]
    assert sum(losses[0], ()) == sum(losses[1], ())
    with Store(folders.database) as store:
        lines = dict(facts(store.details(1), folders.run_folder(1)))
    assert "float32, channels last, 4 threads: 2.00 times as fast as plain float32" in lines["device"]
    assert len(tuned(set_up(folders, SPEC.replace(batch_size=64)))) == 1  # another shape is another question


@pytest.mark.slow
def test_fewer_threads_are_taken_where_they_are_quicker(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: float(threads))
    (found,) = tuned(set_up(folders))
    assert (found.num_threads, found.memory_format, found.gain) == (1, "contiguous_format", 4)


@pytest.mark.slow
def test_a_little_quicker_is_not_enough(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 0.95 if placement.memory_format is torch.channels_last else 1.0)
    (found,) = tuned(set_up(folders))
    assert (found.dtype, found.memory_format, found.num_threads, found.gain) == ("float32", "contiguous_format", 4, 1)
    assert choice_text(found) == "plain float32 on 4 threads is fastest"


def test_one_pair_that_disagrees_is_enough_to_leave_a_form(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    """Five times as fast in a busy moment, and slower in the next one."""
    looks = count()

    def of(placement: Placement, threads: int) -> float:
        if placement.memory_format is not torch.channels_last:
            return 1.0
        return 0.2 if next(looks) < 4 else 1.1

    seconds(of)
    (found,) = tuned(set_up(folders))
    assert (found.memory_format, found.gain) == ("contiguous_format", 1)


def test_what_was_measured_beside_others_is_measured_again_once_they_are_gone(
    folders: Folders,
    seconds: Callable[[Callable[[Placement, int], float]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds(lambda placement, threads: 1.0)
    monkeypatch.setattr(OthersMeter, "read", lambda self: 1.5)
    assert [event.busy_cores for event in tuned(set_up(folders))] == [1.5]
    assert not tuned(set_up(folders))  # they are still there
    monkeypatch.setattr(OthersMeter, "read", lambda self: 0.0)
    assert [event.busy_cores for event in tuned(set_up(folders))] == [0.0]
    assert not tuned(set_up(folders))


def test_a_run_of_another_speed_has_the_next_one_measure_again(
    folders: Folders,
    seconds: Callable[[Callable[[Placement, int], float]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds(lambda placement, threads: 1.0)
    monkeypatch.setattr(tuning, "LEAST_CHECK_S", 0.0)
    trained_s = iter((10.0, 13.0, 16.0, 10.0))
    real = tuning.check_choice
    monkeypatch.setattr(
        train, "check_choice", lambda run, tuned, images, seconds: real(run, tuned, images, next(trained_s))
    )
    found = []
    for _ in range(4):
        events = collect(folders)
        (checked,) = (event for event in events if isinstance(event, TuningChecked))
        found.append((len(tuned(events)), checked.first_images_per_s is None, checked.holds))
    assert found == [(1, True, True), (0, False, True), (0, False, False), (1, True, True)]


def test_the_speed_of_a_compiled_network_says_nothing(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds(lambda placement, threads: 1.0)
    monkeypatch.setattr(tuning, "LEAST_CHECK_S", 0.0)
    monkeypatch.setattr(setup, "compile_network", lambda *arguments: iter(()))
    assert any(isinstance(event, TuningChecked) for event in collect(folders))
    assert not any(isinstance(event, TuningChecked) for event in collect(folders, SPEC.replace(compile=True)))


def test_measuring_ends_with_its_budget(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that the steps themselves turn: nothing else takes any time."""
    monkeypatch.setenv("RESLAB_TUNE", "1")
    clock = [0.0]
    monkeypatch.setattr("engine.training.autotune.perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)

    def timed(self: tuning.Trial, candidate: tuning.Candidate, learner: Learner, num_steps: int) -> float:
        clock[0] += 0.4 * num_steps
        return 0.4

    monkeypatch.setattr(tuning.Trial, "time_steps", timed)
    monkeypatch.setattr(OthersMeter, "read", lambda self: 0.0)
    shape = DataShape(1, 8, 8, 10)
    for num_images, budget_s in ((1_437, 3.0), (143_700, 0.05 * 0.4 * 143_700 / 32)):
        clock[0] = 0.0
        work = tuning.tune(1, SPEC, tuning.TrialImages(shape, (0.5,), (0.5,), num_images), CPU, RunControl())
        told = []
        while True:
            try:
                told.append(next(work))
            except StopIteration as end:
                found = end.value
                break
        assert clock[0] <= budget_s
        assert [progress.done for progress in told] == sorted(progress.done for progress in told)
        assert all(progress.done <= progress.total for progress in told)
        assert found is not None
        assert found.due == (budget_s == 3.0)  # not all was measured: the next run tries again


def test_a_network_whose_steps_take_longer_than_the_budget_is_not_measured(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 1_000.0)
    assert not tuned(set_up(folders))


def test_a_run_that_is_resumed_keeps_its_threads_and_measures_nothing(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 1.0)
    *_, ended = run_until(StepsCompleted, folders, SPEC.replace(epochs=50))
    assert isinstance(ended, RunEnded)
    assert ended.status == "stopped"
    with Store(folders.database) as store:
        assert store.forget_autotune_choices() == 1
    seconds(lambda placement, threads: float(threads))  # a single one would be taken now
    control = RunControl()
    for event in Lab(folders).resume(1, control).events():
        assert not isinstance(event, SettingsTuned)
        if isinstance(event, RunContinued):
            assert event.differs == ()
            control.stop()


def test_the_command_lists_measures_and_forgets(
    folders: Folders,
    seconds: Callable[[Callable[[Placement, int], float]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    seconds(lambda placement, threads: 1.0 if placement.memory_format is torch.channels_last else 2.0)

    def said(*words: str) -> str:
        code = main([*words, "--home", str(folders.home), "--data-dir", str(folders.data)], lambda opening: 9)
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out + captured.err

    assert "no choices stored" in said("autotune")
    words = "float32, channels last, 4 threads: 2.00 times as fast as plain float32"
    assert words in said("autotune", "digits", "resnet20", "--batch-size", "32")
    assert f"resnet20  1×8×8      32  {words}" in said("autotune")
    assert words in said("autotune", "digits", "resnet20", "--batch-size", "32", "--compile")
    assert "resnet20, compile True  1×8×8      32  " in said("autotune")
    assert not tuned(set_up(folders))  # the run goes by it
    assert json.loads(said("autotune", "--json"))[0]["gain"] == 2
    assert "2 choices deleted" in said("autotune", "--forget")
    assert "no choices stored" in said("autotune")
    assert main(["autotune", "--forget", "digits", "resnet20"], lambda opening: 9) == 2
    assert "leave out the dataset" in capsys.readouterr().err
    assert main(["autotune", "--batch-size", "32"], lambda opening: 9) == 2
    assert "dataset and model: missing" in capsys.readouterr().err


def test_a_choice_holds_for_what_makes_the_step() -> None:
    shape = DataShape(1, 8, 8, 10)
    key = autotune_key(SPEC, shape)
    assert json.loads(key)[3:] == ["resnet20", "own", "batch", "sgd", 1, 8, 8, 10, SPEC.batch_size]  # as ever
    assert autotune_key(SPEC.replace(learning_rate=0.5, epochs=3, seed=4, momentum=0.5), shape) == key
    frozen = autotune_key(SPEC.replace(weights="somewhere.pth", freeze="backbone"), shape)
    assert json.loads(frozen)[12:] == [{"freeze": "backbone"}]
    keys = {
        key,
        frozen,
        autotune_key(SPEC.replace(compile=True), shape),
        autotune_key(SPEC.replace(batch_size=8), shape),
    }
    assert len(keys) == 4


def test_a_form_that_cannot_be_computed_is_left_out(
    folders: Folders, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    def of(placement: Placement, threads: int) -> float:
        if placement.memory_format is torch.channels_last:
            raise RuntimeError("no kernel for this")
        return 1.0

    seconds(of)
    events = collect(folders)
    assert tuned(events)[0].gain == 1
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "completed"


def test_what_a_person_asked_for_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_TUNE", "1")
    assert is_tunable(SPEC, CPU)
    assert not is_tunable(SPEC.replace(dtype="float32"), CPU)
    assert not is_tunable(SPEC.replace(deterministic=True), CPU)
    assert not is_tunable(SPEC, Placement(torch.device("cuda", 0), torch.bfloat16, torch.channels_last, "test"))
    monkeypatch.setenv("RESLAB_TUNE", "0")
    assert not is_tunable(SPEC, CPU)


def test_a_real_trial_leaves_threads_weights_and_random_numbers_as_they_were(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = collect(folders, SPEC.replace(dtype="float32"))
    monkeypatch.setenv("RESLAB_TUNE", "1")
    monkeypatch.setattr(tuning, "MIN_SPEEDUP", 1000.0)  # measured for real, and nothing taken
    monkeypatch.setattr(tuning, "LEAST_S", 600.0)  # also on a machine that is busy with other things
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    measured = collect(folders)
    assert torch.get_num_threads() == threads
    assert torch.random.get_rng_state().equal(state)
    (found,) = tuned(measured)
    assert json.loads(found.key)[3] == "resnet20"
    losses = [[event.losses for event in events if isinstance(event, StepsCompleted)] for events in (plain, measured)]
    assert sum(losses[0], ()) == sum(losses[1], ())


def test_a_stop_in_the_middle_of_a_trial_ends_the_run(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_TUNE", "1")
    control = RunControl()
    build = tuning.Trial.learner_for

    def stop(self: tuning.Trial, candidate: tuning.Candidate) -> Learner:
        control.stop()
        return build(self, candidate)

    monkeypatch.setattr(tuning.Trial, "learner_for", stop)
    events = list(Lab(folders).train(SPEC, control).events())
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "stopped"


def test_a_choice_that_does_not_fit_is_neither_taken_nor_checked(
    folders: Folders,
    seconds: Callable[[Callable[[Placement, int], float]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds(lambda placement, threads: 1.0 if placement.memory_format is torch.channels_last else 2.0)

    def fit(step: Step, ledger: Ledger) -> Plan:
        plan = fit_run(step, ledger)
        return dataclasses.replace(plan, fit="not") if step.placement.memory_format is torch.channels_last else plan

    monkeypatch.setattr(setup, "fit_run", fit)
    monkeypatch.setattr(tuning, "LEAST_CHECK_S", 0.0)
    events = collect(folders)
    assert tuned(events)[0].memory_format == "channels_last"
    assert started(events).resolved.memory_format == "contiguous_format"
    assert not any(isinstance(event, TuningChecked) for event in events)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "completed"
