"""`reslab audit`: what a dataset holds, and what is wrong with it. Exit code 0 whatever is found."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from engine.auditing import DatasetLook
from engine.cli.output import print_json
from engine.cli.parser import columns, given_settings
from engine.control import RunControl
from engine.data.audit.findings import Finding, findings_of
from engine.data.audit.values import Audit, Kind
from engine.errors import SpecError
from engine.events import plain
from engine.lab import Lab
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from engine.text import counted, memory_size, safe_text

INTERRUPTED = 130
_ANY_MODEL = "resnet18"  # a spec names one; the images do not depend on it
_SETTINGS = ("image_size", "val_share", "test_share", "split_seed", "exclude")
_MOST_LINES = 10
_MOST_KINDS = 8


def audit_command(arguments: argparse.Namespace, lab: Lab) -> int:
    """Print the facts and findings; 130 if it was stopped."""
    spec = _spec(arguments, lab)
    control = RunControl()
    with _stopped_by_signals(control):
        try:
            audit = _shown(lab, spec, control, arguments.run)
        except LoadingStopped:
            print("reslab: stopped; nothing is kept", file=sys.stderr)
            return INTERRUPTED
    findings = findings_of(audit, lab.look.decisions(), spec.batch_size)
    if arguments.json:
        print_json({**plain(audit), "findings": plain(findings), "kept_bytes": lab.look.kept_bytes(spec)})
    else:
        _print(audit, findings, lab.look, spec)
    return 0


def _spec(arguments: argparse.Namespace, lab: Lab) -> RunSpec:
    """The dataset's settings as given, else as those of the run on the same dataset."""
    given = given_settings(arguments)
    if "dataset" not in given:
        raise SpecError("dataset: missing; expected a name that `reslab datasets` lists, or folder:PATH", "dataset")
    spec = None if arguments.run is None else lab.spec(arguments.run)
    if spec is not None and spec.dataset == given["dataset"]:
        given = {**{name: getattr(spec, name) for name in (*_SETTINGS, "batch_size")}, **given}
    return RunSpec.from_mapping({"model": _ANY_MODEL, **given})


@contextmanager
def _stopped_by_signals(control: RunControl) -> Iterator[None]:
    """ctrl+c and SIGTERM end the work after the images in hand; a second one at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        if control.stop_requested:
            raise KeyboardInterrupt
        control.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(lab: Lab, spec: RunSpec, control: RunControl, run: int | None) -> Audit:
    """The audit; shows its progress on a terminal."""
    work, on_terminal = lab.audit(spec, control, run), sys.stderr.isatty()
    try:
        while True:
            progress = next(work)
            if on_terminal:
                total = f" of {progress.total:,}" if progress.total else ""
                text = f"{progress.stage} {progress.done:,}{total} {progress.unit}"
                print(f"\r{safe_text(text)}\x1b[K", end="", file=sys.stderr, flush=True)
    except StopIteration as end:
        audit: Audit = end.value
        return audit
    finally:
        if on_terminal:
            print("\r\x1b[K", end="", file=sys.stderr)


def _print(audit: Audit, findings: tuple[Finding, ...], look: DatasetLook, spec: RunSpec) -> None:
    channels, height, width = audit.shape
    classes = counted(len(audit.class_names), "class", "classes")
    print(
        f"{safe_text(audit.dataset)}: {counted(audit.num_images, 'image')} in {classes}, used "
        f"at {height}×{width}×{channels}"
    )
    header = ("CLASS", *(part.part.upper() for part in audit.parts))
    rows = [
        (safe_text(name, 40), *(f"{part.counts[number]:,}" for part in audit.parts))
        for number, name in enumerate(audit.class_names)
    ]
    print(columns([header, *rows], right=range(1, len(header))))
    print(f"sizes: {_kinds(audit.sizes)}")
    print(f"kinds: {_kinds(audit.modes)}")
    for note in audit.notes:
        print(safe_text(note))
    if audit.near_note:
        print(safe_text(audit.near_note))
    for finding in findings:
        print(f"\n{finding.number:,} {safe_text(finding.title)}\n  {safe_text(finding.meaning)}")
        for item in finding.items[:_MOST_LINES]:
            print(f"  - {safe_text(item)}")
        if (rest := len(finding.items) - _MOST_LINES) > 0:
            print(f"  … and {rest:,} more; --json lists all")
    if not findings:
        print("\nnothing found that would make the figures doubtful")
    print(f"kept in {look.folders.cache} ({memory_size(look.kept_bytes(spec))})", file=sys.stderr)


def _kinds(kinds: tuple[Kind, ...]) -> str:
    shown = [f"{safe_text(kind.name)} {kind.number:,}" for kind in kinds[:_MOST_KINDS]]
    rest = len(kinds) - _MOST_KINDS
    return ", ".join(shown) + (f" and {rest:,} more" if rest > 0 else "")
