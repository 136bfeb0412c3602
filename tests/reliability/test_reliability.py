"""A tenth of each count; `uv run python -m tests.reliability` tries the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reliability.faults import FAULTS

pytestmark = pytest.mark.reliability


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost(name: str, tmp_path: Path) -> None:
    fault = FAULTS[name]
    outcome = fault.work(fault.count(0.1), tmp_path)
    if outcome.note.startswith("not tried"):
        pytest.skip(outcome.note)
    assert outcome.tries == fault.count(0.1)
    assert outcome.losses == []
