"""Refreshes the pins in pyproject.toml: the newest versions that go together, without addresses.

uv run python -m tests.pins

Run the tests afterwards; the pins say which versions they passed with. What torch pins itself is left to torch.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
_LIST = re.compile(r"^constraint-dependencies = \[[^\]]*\]$", re.MULTILINE)
_EXPORTED = re.compile(r"^([a-z0-9-]+)(==[^\s;]+)( ; .*)?$", re.MULTILINE)
_TORCHS = re.compile(r"^(nvidia-(?!ml-py)|cuda-|triton)")


def newest_pins() -> list[str]:
    """`name==version` of every package, resolved without the present pins."""
    subprocess.run(["uv", "lock", "--upgrade", "--quiet"], cwd=PYPROJECT.parent, check=True)
    command = [
        "uv",
        "export",
        "--quiet",
        "--no-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-project",
        "--all-groups",
    ]
    exported = subprocess.run(command, cwd=PYPROJECT.parent, check=True, capture_output=True, text=True).stdout
    found = [pin for pin in _EXPORTED.findall(exported) if not _TORCHS.match(pin[0])]
    count = Counter(name for name, _, _ in found)  # twice: one version for this Python, another for that
    return sorted(name + version + (marker if count[name] > 1 else "") for name, version, marker in found)


def main() -> None:
    before = PYPROJECT.read_text(encoding="utf-8")
    try:
        PYPROJECT.write_text(_LIST.sub("constraint-dependencies = []", before), encoding="utf-8")
        pins = "".join(f'    "{pin}",\n' for pin in newest_pins())
    except BaseException:
        PYPROJECT.write_text(before, encoding="utf-8")
        raise
    PYPROJECT.write_text(_LIST.sub(lambda match: f"constraint-dependencies = [\n{pins}]", before), encoding="utf-8")


if __name__ == "__main__":
    main()
