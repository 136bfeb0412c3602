"""What `--dtype auto` measures, takes, keeps and leaves alone. Which form is quickest here, no test may say."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch

from engine.control import RunControl
from engine.device import Placement
from engine.events import Event, RunEnded, RunStarted, SettingsTuned, StepsCompleted
from engine.paths import Places
from engine.results.store import Store
from engine.results.tables import facts, tuning_text
from engine.runs import Lab, run
from engine.spec import RunSpec
from engine.training import tuning
from engine.training.learner import Learner
from engine.training.tuning import is_tunable

CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "test")
pytestmark = pytest.mark.usefixtures("few_digits")
SPEC = RunSpec("digits", "resnet20", epochs=1, batch_size=32)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Placement, int], float]], None]:
    """Lets a test say how long a step takes in each form; the step is made all the same."""
    monkeypatch.setenv("RESLAB_TUNE", "1")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)

    def say(of: Callable[[Placement, int], float]) -> None:
        def timed(self: tuning._Trial, form: tuning._Form, learner: Learner) -> float:
            learner.compute_gradients(self._batch, 1, 0)
            return of(form.placement, form.num_threads)

        monkeypatch.setattr(tuning._Trial, "_seconds", timed)

    return say


def collect(places: Places, spec: RunSpec = SPEC) -> list[Event]:
    return list(run(spec, Lab(places), RunControl()))


def tuned(events: list[Event]) -> list[SettingsTuned]:
    return [event for event in events if isinstance(event, SettingsTuned)]


def started(events: list[Event]) -> RunStarted:
    return next(event for event in events if isinstance(event, RunStarted))


def test_the_quickest_form_is_taken_recorded_and_not_measured_again(
    places: Places, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 1.0 if placement.memory_format is torch.channels_last else 2.0)
    first = collect(places)
    (found,) = tuned(first)
    assert (found.dtype, found.memory_format, found.num_threads) == ("float32", "channels_last", 4)
    assert found.gain == 2
    assert started(first).resolved.memory_format == "channels_last"
    assert started(first).resolved.gain == 2
    seconds(lambda placement, threads: 1.0)
    again = collect(places)
    assert not tuned(again)
    assert started(again).resolved == started(first).resolved
    losses = [[event.losses for event in events if isinstance(event, StepsCompleted)] for events in (first, again)]
    assert sum(losses[0], ()) == sum(losses[1], ())
    with Store(places.database) as store:
        lines = dict(facts(store.details(1), places.run_folder(1)))
    assert "float32, channels last, 4 threads: 2.00 times as fast as plain float32" in lines["device"]
    assert len(tuned(collect(places, SPEC.replace(batch_size=64)))) == 1  # another shape is another question


@pytest.mark.slow
def test_fewer_threads_are_taken_where_they_are_quicker(
    places: Places, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: float(threads))
    (found,) = tuned(collect(places))
    assert (found.num_threads, found.memory_format, found.gain) == (1, "contiguous_format", 4)


@pytest.mark.slow
def test_a_little_quicker_is_not_enough(
    places: Places, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    seconds(lambda placement, threads: 0.95 if placement.memory_format is torch.channels_last else 1.0)
    (found,) = tuned(collect(places))
    assert (found.dtype, found.memory_format, found.num_threads, found.gain) == ("float32", "contiguous_format", 4, 1)
    assert tuning_text(found) == "plain float32 on 4 threads is as quick as anything"


def test_a_form_that_cannot_be_computed_is_left_out(
    places: Places, seconds: Callable[[Callable[[Placement, int], float]], None]
) -> None:
    def of(placement: Placement, threads: int) -> float:
        if placement.memory_format is torch.channels_last:
            raise RuntimeError("no kernel for this")
        return 1.0

    seconds(of)
    events = collect(places)
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
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = collect(places, SPEC.replace(dtype="float32"))
    monkeypatch.setenv("RESLAB_TUNE", "1")
    monkeypatch.setattr(tuning, "_CLEARLY", 1000.0)  # measured for real, and nothing taken
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    measured = collect(places)
    assert torch.get_num_threads() == threads
    assert torch.random.get_rng_state().equal(state)
    (found,) = tuned(measured)
    assert json.loads(found.key)[3] == "resnet20"
    losses = [[event.losses for event in events if isinstance(event, StepsCompleted)] for events in (plain, measured)]
    assert sum(losses[0], ()) == sum(losses[1], ())


def test_a_stop_in_the_middle_of_a_trial_ends_the_run(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_TUNE", "1")
    control = RunControl()
    built = tuning._Trial._built

    def stop(self: tuning._Trial, form: tuning._Form) -> Learner:
        control.stop()
        return built(self, form)

    monkeypatch.setattr(tuning._Trial, "_built", stop)
    events = list(run(SPEC, Lab(places), control))
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "stopped"
