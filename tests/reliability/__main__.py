"""Every fault, as often as it is to be tried, and the table: `uv run python -m tests.reliability [FAULT …]`."""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

import torch

from engine.device import cpu_name
from tests.reliability.faults import FAULTS


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.reliability", description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join(FAULTS))
    parser.add_argument("--share", type=float, default=1.0, help="of each count; CI tries a tenth")
    given = parser.parse_args()
    unknown = [name for name in given.faults if name not in FAULTS]
    if unknown:
        parser.error(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    print(f"{cpu_name()}, {platform.system()} {platform.release()}, torch {torch.__version__}\n")
    print("| fault | tries | losses | time | |\n| --- | --- | --- | --- | --- |")
    lost = 0
    for name in given.faults or FAULTS:
        fault = FAULTS[name]
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            outcome = fault.work(fault.count(given.share), Path(folder))
        minutes = (time.monotonic() - began) / 60
        said = fault.says
        print(
            f"| {said} | {outcome.tries:,} | {len(outcome.losses)} | {minutes:.1f} min | {outcome.note} |", flush=True
        )
        for loss in outcome.losses[:20]:
            print(f"    {name}: {loss}", file=sys.stderr, flush=True)
        lost += len(outcome.losses)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
