"""Mistakes in the right order, one cell of the matrix, what two runs judge differently, and the images themselves."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.analysis.mistakes import find_differences, find_mistakes, load_test_images
from engine.control import RunControl
from engine.errors import DatasetError
from engine.lab import Lab
from engine.paths import Folders
from engine.records import Predictions
from engine.spec import RunSpec
from engine.store.store import Store
from tests.fakes import events_of

answers = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1, width=32)), min_size=1, max_size=60)


def predictions(rows: list[tuple[int, int, float]]) -> Predictions:
    labels, guesses, confidences = zip(*rows, strict=True)
    return Predictions(array("H", labels), array("H", guesses), array("f", confidences))


@given(answers)
def test_mistakes_are_all_the_wrong_ones_the_surest_first(rows: list[tuple[int, int, float]]) -> None:
    found = find_mistakes(predictions(rows))
    assert {item.index for item in found} == {index for index, row in enumerate(rows) if row[0] != row[1]}
    confidences = [item.confidence for item in found]
    assert confidences == sorted(confidences, reverse=True)
    assert all((item.label, item.predicted) == rows[item.index][:2] for item in found)


@given(answers, st.integers(0, 3), st.integers(0, 3))
def test_a_cell_of_the_matrix_holds_its_images(rows: list[tuple[int, int, float]], label: int, guess: int) -> None:
    found = find_mistakes(predictions(rows), label, guess)
    assert len(found) == sum(row[:2] == (label, guess) for row in rows)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_differences_are_the_images_that_mcnemar_counts(rows: list[tuple[int, int, int]]) -> None:
    a = predictions([(label, one, 0.5) for label, one, _ in rows])
    b = predictions([(label, other, 0.7) for label, _, other in rows])
    found = find_differences(a, b)
    assert {one.index for one, _ in found} == {
        index for index, (label, one, other) in enumerate(rows) if (label == one) != (label == other)
    }
    assert all(one.index == other.index for one, other in found)


def test_the_images_are_those_of_the_run_in_the_order_of_its_predictions(folders: Folders) -> None:
    list(Lab(folders).train(RunSpec("digits", "resnet20", epochs=1)).events())
    with Store(folders.database) as store:
        details = store.details(1)
    images = load_test_images(details, folders, RunControl(), lambda progress: None, range(360))
    assert images.shape == (360, 1, 8, 8)
    assert images.dtype == np.uint8
    some = load_test_images(details, folders, RunControl(), lambda progress: None, [7, 3])
    assert (some == images[[7, 3]]).all()


def test_images_that_have_changed_are_refused(folders: Folders) -> None:
    spec = RunSpec("digits", "resnet20", epochs=1)
    with Store(folders.database) as store:
        number = store.create_run(spec)
        for event in events_of(spec, number):
            store.record(event)
        details = store.details(number)
    with pytest.raises(DatasetError, match="have changed, or"):
        load_test_images(details, folders, RunControl(), lambda progress: None, [0])
