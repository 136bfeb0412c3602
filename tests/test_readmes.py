"""The READMEs: short enough to read, their links lead somewhere, and the commands in them are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.cli.parser import build_parser

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / "README.md",
    *(path for room in ("engine", "tui", "tests") for path in (ROOT / room).rglob("README.md")),
]


def test_the_readme_is_for_a_person_who_has_not_decided_yet() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_its_links_lead_somewhere(readme: Path) -> None:
    text = readme.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(#[^)]*)?\)", text):
        found = readme.parent / target if target else readme
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
            assert anchor[1:] in [re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings]


def test_the_commands_in_them_are_there() -> None:
    (subparsers,) = (action for action in build_parser()._actions if action.dest == "command")
    assert subparsers.choices is not None
    known = set(subparsers.choices)
    named = {
        command
        for readme in READMES
        for command in re.findall(r"(?:^    (?:\$ )?|`)reslab ([a-z]+)\b", readme.read_text(), re.MULTILINE)
    }
    assert named <= known
    assert {"train", "resume", "compare", "doctor", "autotune"} <= named


def test_every_room_says_how_it_is_read_about_from_the_first_page() -> None:
    first = (ROOT / "README.md").read_text()
    for readme in READMES[1:]:
        assert f"({readme.relative_to(ROOT)})" in first, readme
