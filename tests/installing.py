"""Installs the example package into a folder without a build tool: its modules, and the metadata of a wheel."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engine.catalog.installed import provided

PACKAGE = Path(__file__).parent / "example_package"


def install_example(target: Path) -> None:
    """As `pip install --target` would, of a pure package (https://packaging.python.org, binary distribution format)."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"]
    shutil.copytree(PACKAGE / "spots", target / "spots", ignore=shutil.ignore_patterns("__pycache__"))
    about = target / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
              for group, points in project["entry-points"].items()]  # fmt: skip
    (about / "entry_points.txt").write_text("\n".join(groups))


@contextmanager
def example_installed(target: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block, this process finds the example package, and its children do."""
    install_example(target)
    monkeypatch.syspath_prepend(str(target))
    monkeypatch.setenv("PYTHONPATH", str(target), prepend=":")
    provided.cache_clear()
    yield
    provided.cache_clear()
