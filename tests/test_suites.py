"""A test belongs to one suite, so that `-m slow` needs nothing that only the cluster tests have."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import SUITES

TESTS = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_a_parameter_with_a_heavier_mark_takes_the_test_out_of_the_lighter_suite(suite: str) -> None:
    """The backends' tests have all kinds: some are slow on their own, and each runs on Ray as well."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-n",
        "0",
        "-m",
        suite,
        str(TESTS / "engine/test_backends.py"),
    ]
    collected = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    names = [line for line in collected.splitlines() if "::" in line]
    assert ("[ray]" in collected) == (suite == "cluster")
    assert all("[ray]" in name for name in names) == (suite in ("cluster", "timm", "reliability"))
