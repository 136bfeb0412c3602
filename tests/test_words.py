"""One word for one thing, and the word that the field uses: names and sentences that were replaced do not come back."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "engine").rglob("*.py"), *(ROOT / "tui").rglob("*.py")])

NAMES = {
    "Carrier": "DetachedProcess",
    "carried": "in a process of its own",
    "carriers": "heartbeat",
    "_carry": "record_events",
    "Asked": "ControlRequest",
    "Exchange": "EventChannel",
    "crew": "group",
    "Crew": "WorkerGroup",
    "Known": "History",
    "Places": "Folders",
    "places": "folders",
    "RecordedStep": "GraphedStep",
    "Points": "StepMetrics",
    "RunRecord": "RunSummary",
    "go_on": "resume",
    "weighted": "load_weights",
    "told": "reported",
}
"""Names that have one meaning only, and what replaced them."""

SENTENCES = (
    "does not do",
    "not to be had",
    "can be had",
    "no earlier run tells",
    "the small stem keeps more",
    "p goes on",
    "came free",
    "got wrong, the surest",
    "goes on by itself",
    "g goes on",
    "enter takes it",
    "esc goes back",
    "as quick as anything",
    "begins anew",
    "all as by default",
    "once more to break off",
    "belong together",
    "measure settings",
    "images a step",
    "first weights",
)
"""What was once on the screen, of the left column's phrases those that mean nothing else."""


def names_in(path: Path) -> Iterator[tuple[int, str]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.start[0], token.string


def texts_in(path: Path) -> Iterator[tuple[int, str]]:
    """String constants that are no docstrings."""
    tree = ast.parse(path.read_text())
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def test_names_and_sentences_are_the_fields() -> None:
    found = []
    for path in SOURCES:
        where = path.relative_to(ROOT)
        found += [f"{where}:{line}: {name}, say {NAMES[name]}" for line, name in names_in(path) if name in NAMES]
        found += [f"{where}:{line}: {text!r}" for line, text in texts_in(path) for part in SENTENCES if part in text]
    assert found == []
