"""The walls of the house: import contracts, and what a fresh interpreter loads."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, capture_output=True, text=True, env=_environment(folder)
    )


def _environment(folder: Path) -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(folder)}


def test_the_import_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        pytest.param(
            "engine/launch/in_process.py", "import tui.text", "The engine knows no screen", marks=pytest.mark.slow
        ),
        ("engine/step/guard.py", "def late():\n    import engine.training.loop", "Layers"),
        pytest.param(
            "engine/models/form.py",
            "if TYPE_CHECKING:\n    import engine.step.learner",
            "Layers",
            marks=pytest.mark.slow,
        ),
        pytest.param("engine/locking.py", "import engine.cli.output", "Layers", marks=pytest.mark.slow),
        pytest.param("engine/fetching.py", "import engine.data.splits", "Layers", marks=pytest.mark.slow),
        ("engine/memory/room_of.py", "import engine.data.splits", "No two folders form a circle"),
        ("engine/events.py", "import numpy", "Menus and facts need no heavy library"),
        ("engine/training/loop.py", "import engine.store.store", "only compute and yield"),
        pytest.param(
            "engine/models/first_last.py",
            "import engine.data.splits",
            "Models and datasets meet through DataShape",
            marks=pytest.mark.slow,
        ),
        pytest.param("tui/widgets/chart.py", "import torch", "Widgets draw values", marks=pytest.mark.slow),
        pytest.param("tui/screens/results.py", "import sqlite3", "Screens read", marks=pytest.mark.slow),
        pytest.param(
            "tui/app.py", "import engine.launch.recording", "Only the session starts runs", marks=pytest.mark.slow
        ),
        ("engine/launch/detached.py", "import ray", "Ray is known to its own folder alone"),
        pytest.param(
            "tui/state.py", "import tui.screens.train", "The state knows nothing that shows it", marks=pytest.mark.slow
        ),
        pytest.param(
            "tui/screens/train.py", "import tui.app", "Screens know the state and the commands", marks=pytest.mark.slow
        ),
        pytest.param("tui/widgets/bars.py", "import tui.state", "Widgets draw values", marks=pytest.mark.slow),
    ],
)
def test_a_broken_wall_is_noticed(file: str, line: str, contract: str, tmp_path: Path) -> None:
    for name in ("engine", "tui"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as module:
        module.write(f"\n{line}\n")
    result = lint_imports(tmp_path)
    assert result.returncode != 0
    assert any(contract in text and "BROKEN" in text for text in result.stdout.splitlines())


_TORCH_SIGNATURES = {"engine/forecast/shapes.py", "engine/step/batchnorm.py"}  # operations of torch's, as it calls them


def test_no_function_has_more_than_six_parameters() -> None:
    """Beyond that a value is missing. Constructors of values are left out: dataclasses write theirs."""
    found = []
    for path in [*(ROOT / "engine").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]:
        if (name := str(path.relative_to(ROOT))) in _TORCH_SIGNATURES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len([item for item in own if item.arg not in ("self", "cls")]) > 6:
                    found.append(f"{name}:{node.lineno} {node.name}")
    assert found == []


def test_tests_patch_no_private_names() -> None:
    """What a test has to change is a seam, and has a public name."""
    private = re.compile(r"""(setattr|patch(\.object)?)\([^)]*["'.]_[a-zA-Z]\w*["'],""")
    found = [
        f"{path.name}:{number}"
        for path in (ROOT / "tests").rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if private.search(line)
    ]
    assert found == []


@pytest.mark.slow
def test_a_new_event_is_pointed_at_where_events_are_kept_or_shown(tmp_path: Path) -> None:
    """mypy names each consumer that does not deal with it."""
    for name in ("engine", "tui"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    file = tmp_path / "engine" / "events.py"
    text = file.read_text(encoding="utf-8")
    new = "@dataclass(frozen=True, slots=True)\nclass RunFlew:\n    run: int\n\n\nEvent = (\n    RunFlew\n    | "
    file.write_text(text.replace("Event = (\n    ", new, 1), encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--no-incremental", "engine", "tui"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=_environment(tmp_path))
    found = {line.split(":")[0] for line in result.stdout.splitlines() if "RunFlew" in line}
    assert found == {"engine/store/store.py", "engine/cli/training.py", "engine/cli/side_by_side.py", "tui/live.py"}


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys; print(*(name for name in sys.modules if '.' not in name))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


HEAVY = {"torch", "torchvision", "sklearn", "scipy"}


@pytest.mark.parametrize(
    "statement",
    [
        "import engine",
        "import tui.app, tui.screens.setup, tui.screens.train, tui.screens.results, tui.screens.run",
        "import engine.spec, engine.events, engine.catalog.datasets, engine.catalog.models",
        "import engine.cli.runs",
    ],
)
def test_menus_and_screens_load_no_torch(statement: str) -> None:
    assert loaded_by(statement).isdisjoint(HEAVY)


def test_the_first_paint_waits_for_no_numpy() -> None:
    assert "numpy" not in loaded_by("import tui.app, tui.screens.setup")


def test_help_loads_neither_torch_nor_textual() -> None:
    statement = (
        "from engine.cli import main\n"
        "try: main(['--help'], lambda *a: 0)\nexcept SystemExit as end: assert end.code == 0\n"
        "import sys; sys.stdout.write('\\n---\\n')"
    )
    code = f"{statement}\nprint(*(name for name in sys.modules if '.' not in name))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(result.stdout.split("---")[-1].split())
    assert loaded.isdisjoint({*HEAVY, "textual", "numpy", "rich"})
