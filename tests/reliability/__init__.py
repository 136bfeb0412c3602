"""Faults, tried and counted: `uv run python -m tests.reliability` runs all of them and prints the table."""
