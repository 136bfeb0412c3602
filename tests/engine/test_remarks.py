"""What is said of a completed run that learnt nothing, or one class alone; the tests behind it, against scipy."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from engine.analysis.exact_tests import binomial_tail, sign_test
from engine.analysis.remarks import remarks
from engine.cli import main, training
from engine.events import Evaluated, Event, RunEnded
from engine.paths import Folders
from engine.records import Change, EvaluationRecord
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of, metrics

NAMES = ("cat", "dog")


@given(st.integers(0, 400), st.integers(0, 400), st.floats(0.001, 0.999))
def test_the_tail_is_scipys(successes: int, trials: int, chance: float) -> None:
    expected = stats.binom.sf(successes - 1, trials, chance)
    assert binomial_tail(successes, trials, chance) == pytest.approx(expected, rel=1e-8, abs=1e-15)


@given(st.integers(0, 300), st.integers(0, 300))
def test_the_sign_test_is_scipys(wins: int, losses: int) -> None:
    expected = stats.binomtest(wins, wins + losses, alternative="greater").pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def evaluation(confusion: Sequence[Sequence[int]], moment: str = "final") -> EvaluationRecord:
    counts = np.array(confusion)
    accuracy = float(counts.trace() / counts.sum())
    table = tuple(map(tuple, confusion))
    return EvaluationRecord("test", moment, 1, 12, metrics(accuracy), (), table, 0.1)  # type: ignore[arg-type]


def said(confusion: Sequence[Sequence[int]], change: Change | None = None) -> tuple[str, ...]:
    untrained = evaluation([[50, 50], [50, 50]], "untrained")
    return remarks(evaluation(confusion), untrained, change, NAMES)


def test_a_run_that_learnt_gives_no_cause() -> None:
    assert said([[90, 10], [12, 88]], Change(10, 88, 200)) == ()


def test_one_class_for_nearly_all() -> None:
    first, second = said([[97, 3], [97, 3]])
    assert first == "it predicts one class (cat) for 97.0 % of the test images"
    assert second == "its accuracy is no better than always predicting the most frequent class (cat, 50.0 %)"


def test_one_class_is_no_wonder_where_nearly_all_images_are_of_it() -> None:
    assert said([[940, 5], [5, 50]], Change(0, 400, 1000)) == ()


def test_below_the_most_frequent_class_although_far_above_one_half() -> None:
    (only,) = said([[490, 133], [250, 127]])
    assert only == "its accuracy is no better than always predicting the most frequent class (cat, 62.3 %)"


def test_few_images_are_called_few() -> None:
    (only,) = said([[2, 0], [0, 2]])
    assert "not measurably better" in only
    assert "4 test images are too few, p = 0.25" in only


def test_a_run_that_ended_where_it_began_or_below() -> None:
    learnt = [[90, 10], [12, 88]]
    assert said(learnt, Change(0, 0, 200)) == (
        "it ended where it began: 50.0 % of the test images were right before training, 89.0 % after it, p = 1",
    )
    assert said(learnt, Change(10, 16, 200))[0].startswith("it ended where it began")  # 26 differ, p = 0.16
    assert said(learnt, Change(8, 19, 200)) == ()  # 27 differ, p = 0.026
    assert said(learnt, Change(60, 20, 200))[0].startswith("it ended worse than it began")


def told(folders: Folders, accuracy: float) -> list[Event]:
    """A finished run in the record, whose final evaluation took every image for a cat."""
    with Store(folders.database) as store:
        run = store.create_run(RunSpec("digits", "resnet18", epochs=1))
        events = events_of(RunSpec("digits", "resnet18", epochs=1), run)
        for event in events:
            if isinstance(event, Evaluated) and event.moment == "final":
                right = round(360 * accuracy)
                event = Evaluated(
                    run, "test", "final", event.epoch, event.step, metrics(accuracy), event.per_class,
                    ((right, 0), (360 - right, 0)), 0.1, event.labels, event.predictions, event.confidences,
                )  # fmt: skip
            store.record(event)
        return events


def test_show_says_it_in_words_and_in_json(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    told(folders, 0.5)
    assert main(("show", "1", "--home", str(folders.home)), lambda opening: 0) == 0
    words = "it predicts one class (cat) for 100.0 % of the test images"
    assert f"note: {words}" in capsys.readouterr().out
    assert main(("show", "1", "--json", "--home", str(folders.home)), lambda opening: 0) == 0
    assert words in json.loads(capsys.readouterr().out)["remarks"]


def test_a_run_that_learns_nothing_says_so_at_its_end(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("train", "digits", "resnet20", "--epochs", "1", "--learning-rate", "1e-9", "--batch-size", "512")
    assert main((*words, "--home", str(folders.home), "--json"), lambda opening: 0) == 0
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert any("it ended where it began" in remark for remark in end["remarks"])
    assert any("no better than always predicting" in remark for remark in end["remarks"])
    assert main(("show", "1", "--home", str(folders.home)), lambda opening: 0) == 0
    assert "note: it ended where it began" in capsys.readouterr().out


def test_the_final_table_is_followed_by_it(capsys: pytest.CaptureFixture[str]) -> None:
    ended = RunEnded(1, "completed", metrics(0.1), metrics(0.1), 1.0, 100.0, 3, remarks=("it ended where it began",))
    with training._view(RunSpec("digits", "resnet18"), as_json=False, quiet=False) as view:
        view.show(ended)
    assert "note: it ended where it began" in capsys.readouterr().out


def test_an_event_of_an_earlier_version_has_none() -> None:
    from engine.events import to_json_dict
    from engine.launch.wire import event_from

    values = to_json_dict(RunEnded(1, "completed", None, None, 1.0, None, 3))
    del values["remarks"]
    ended = event_from(values)
    assert isinstance(ended, RunEnded)
    assert ended.remarks == ()
