"""The faults by name: what is tried, and how often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.reliability import damage, full_disk, hung_up, inside, strangers, sudden, together
from tests.reliability.tries import Outcome


@dataclass(frozen=True, slots=True)
class Fault:
    """`work` takes a number of tries and an empty folder; `whole` is that number when all of it is asked for.

    0: the fault itself knows how many there are; a share of it is 30.
    """

    says: str
    whole: int
    work: Callable[[int, Path], Outcome]

    def count(self, share: float) -> int:
        if self.whole == 0:
            return 0 if share == 1 else 30
        return max(round(self.whole * share), 1)


FAULTS = {
    "killed": Fault("kill -9 at a random moment, every second one while a checkpoint is written", 200, sudden.killed),
    "signals": Fault("SIGTERM, SIGINT, SIGHUP in mid-run, headless and in the app", 50, sudden.signals),
    "quits": Fault("q and y in mid-run", 100, sudden.quits),
    "hung-up": Fault(
        "the terminal goes away, idle and in mid-run: window, tmux, SSH, SIGHUP, SIGHUP and SIGCONT",
        30,
        hung_up.hung_up,
    ),
    "flipped": Fault("one bit flipped, or the file cut, in checkpoint, cache, record by turns", 1200, damage.flipped),
    "writes": Fault(
        "each write, fsync, rename, cut, deletion, opening fails once: ENOSPC, EIO, EACCES, half-way",
        0,
        damage.writes,
    ),
    "full-disk": Fault("no room on the disk, then room again", 100, full_disk.full_disk),
    "images": Fault("mutated JPEG, PNG, GIF, BMP files", 2000, damage.images),
    "strangers": Fault(
        "control characters in names, errors, files, records, through every screen and command, on a terminal",
        40,
        strangers.strangers,
    ),
    "two-labs": Fault(
        "two processes train in one home, a third one queues, a fourth one, the app, may only read",
        5,
        together.two_labs,
    ),
    "not-finite": Fault("a loss of NaN or infinity at step k, each k of an epoch", 24, inside.not_finite),
    "resized": Fault("resizes from 20×5 to 300×100, fifty updates a second", 1000, inside.resized),
    "hours": Fault("simulated hours of ten updates a second", 4, inside.hours),
}
