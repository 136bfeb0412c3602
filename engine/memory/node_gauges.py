"""The gauges of a cluster's nodes, from the file that the driver process writes to the home folder."""

from __future__ import annotations

import json
import platform
import time
from dataclasses import dataclass, fields
from pathlib import Path

from engine.memory.gauges import GpuReading, HostReading

_FRESH_S = 10.0


@dataclass(frozen=True, slots=True)
class NodeReading:
    """One node now: its name, its GPUs, its host's memory."""

    name: str
    gpus: tuple[GpuReading, ...]
    host: HostReading


def nodes_path(home: Path) -> Path:
    return home / "nodes.json"


def read_nodes(home: Path) -> tuple[NodeReading, ...]:
    """All nodes except this machine, whose own gauges say more; none if the file is older than ten seconds or
    unreadable.
    """
    file, this_machine = nodes_path(home), platform.node()
    try:
        if time.time() - file.stat().st_mtime > _FRESH_S:
            return ()
        return tuple(
            NodeReading(
                str(node["name"]),
                tuple(_gpu(values) for values in node["reading"]["gpus"]),
                HostReading(**node["reading"]["host"]),
            )
            for node in json.loads(file.read_text(encoding="utf-8"))
            if node["name"] != this_machine
        )
    except (OSError, ValueError, TypeError, KeyError):
        return ()


def _gpu(values: dict[str, object]) -> GpuReading:
    """Without torch's figures, which only the training process has."""
    known = {item.name: values[item.name] for item in fields(GpuReading) if item.name in values}
    others = tuple((str(name), int(held)) for name, held in values.get("others", ()))  # type: ignore[attr-defined]
    notes = tuple(map(str, values.get("notes", ())))  # type: ignore[call-overload]
    return GpuReading(**{**known, "others": others, "notes": notes, "allocator": None})  # type: ignore[arg-type]
