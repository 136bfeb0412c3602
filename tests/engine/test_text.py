"""Text from outside becomes harmless."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.text import counted, escaped, percent, safe_text


@given(st.text())
@example("\x1b]52;c;aGFjaw==\x07")
@example("a\u202eb\u2028c\x9b31m\ud800")
def test_no_control_or_format_character_is_left(text: str) -> None:
    assert not {unicodedata.category(char) for char in safe_text(text)} & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(), st.integers(0, 1))
@example("\x1b]0;x\x07\x9b2J\u202e\U000e0001", 1)
@example("\x7f\\u009b\n", 0)
def test_json_with_escapes_says_the_same_without_such_characters(text: str, indent: int) -> None:
    written = escaped(json.dumps({"a": text}, ensure_ascii=False, indent=indent or None))
    assert not {unicodedata.category(char) for char in written if char != "\n"} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert json.loads(written) == {"a": text}


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))  # TOML knows no surrogates
@example("\x1b]0;x\x07\x9b2J\u202e\U000e0001\x7f")
def test_toml_with_escapes_says_the_same(text: str) -> None:
    written = escaped(f"a = {json.dumps(text, ensure_ascii=False)}", toml=True)
    assert not {unicodedata.category(char) for char in written} & {"Cc", "Cf", "Zl", "Zp"}
    assert tomllib.loads(written) == {"a": text}


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert safe_text(text) == text


def test_escape_is_shown_and_markup_is_kept() -> None:
    assert safe_text("[red]x\x1b[2J") == "[red]x␛[2J"


@given(st.text(), st.integers(1, 50))
def test_a_limit_is_kept(text: str, limit: int) -> None:
    assert len(safe_text(text, limit)) <= limit


def test_percent_prints_as_the_report_does() -> None:
    assert percent(0.1135) == "11.350 %"
    assert percent(None) == "–"


@pytest.mark.parametrize(
    ("number", "says"), [(0, "0 files"), (1, "1 file"), (2, "2 files"), (2000, "2,000 files"), (-1, "-1 files")]
)
def test_a_number_and_its_noun_agree(number: int, says: str) -> None:
    assert counted(number, "file") == says
    assert counted(number, "class", "classes") == says.replace("files", "classes").replace("file", "class")


NOUNS = "bytes|classes|cores|epochs|files|folders|GPUs|images|machines|parameters|runs|seeds|steps|threads|workers"
NEVER_ONE = {  # what the number is, where it cannot be one, or is none
    "engine/data/survey.py: {self.shape.num_classes} classes",
    "engine/training/loop.py: {split_name} images",
    "engine/launch/ray/__init__.py: {self.num_workers} workers",
    "engine/data/cats_dogs.py: {MAX_MEMBERS:,} files",
    "engine/data/splits.py: {share:g} of {counted(len(labels), 'image')} images",
    "engine/device.py: {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores",
    "engine/fetching.py: {total:,} bytes",
    "engine/data/members.py: {MAX_LIST_BYTES:,} bytes",
    "engine/data/audit/findings.py: {PART_WORDS[other]} images",
    "engine/catalog/models.py: {shape.num_classes} classes",
    "engine/analysis/seeds.py: {len(a.seeds)} seeds",
}


def test_every_counted_noun_in_the_engine_passes_the_helper() -> None:
    """Nobody sees the slip in "1 files" with larger numbers at hand. In `device.py` recorded names stay as they are."""
    root = Path(__file__).resolve().parents[2]
    found = {
        f"{path.relative_to(root).as_posix()}: {match[0]}"
        for path in (root / "engine").rglob("*.py")
        for match in re.finditer(rf"\{{[^{{}}\"]*\}} ({NOUNS})\b(?!/)", path.read_text(encoding="utf-8"))
    }
    assert found <= NEVER_ONE
