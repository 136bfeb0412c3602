"""The cluster's nodes: their resources, and their gauges, read by a small process on each node.

Readings go to a file in the home folder, which every screen reads.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.events import plain
from engine.memory.gauges import Gauges, MemoryReading
from engine.memory.node_gauges import nodes_path
from engine.paths import Folders

_EVERY_S = 1.0
_PATIENCE_S = 5.0
_log = logging.getLogger("reslab")


class NodeGauges:
    """Made by `ray.remote` on a node."""

    def __init__(self) -> None:
        self._gauges = Gauges()

    def read(self) -> MemoryReading:
        return self._gauges.read()


def largest_node(with_gpu: bool) -> tuple[float, int]:
    """Cores, and bytes of host memory that Ray allocates, of the node with the most memory (with GPUs: the most cores)
    among those that can run a worker.
    """
    nodes = [node["Resources"] for node in _alive() if not with_gpu or node["Resources"].get("GPU", 0) > 0]
    found = [(node.get("CPU", 0.0), int(node.get("memory", 0))) for node in nodes if node.get("CPU", 0.0) >= 1]
    return max(found, key=lambda node: node[0 if with_gpu else 1], default=(1.0, 0))


def gpu_bytes() -> int:
    """Memory of the cluster's smallest GPU, in bytes; 0 if no GPU reports it."""
    with_gpus = [node for node in _alive() if node["Resources"].get("GPU", 0) > 0]
    found = []
    for node in with_gpus:
        reading: MemoryReading = ray.get(_on(node["NodeID"]).read.remote())
        found += [gpu.total_bytes for gpu in reading.gpus if gpu.total_bytes]
    return min(found, default=0)


class NodeWatch:
    """Reads the gauges of every node, once a second, until it is closed."""

    def __init__(self, folders: Folders) -> None:
        self._file = nodes_path(folders.home)
        self._actors: dict[str, Any] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="nodes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(_PATIENCE_S)
        self._file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._over.wait(_EVERY_S):
            try:
                found = self._read()
            except RayError as error:  # a node was just lost
                _log.warning("the nodes' gauges were not read: %s", error)
                continue
            if found and not self._over.is_set():
                _write(self._file, found)

    def _read(self) -> list[dict[str, Any]]:
        nodes = {node["NodeID"]: str(node["NodeManagerHostname"]) for node in _alive()}
        self._actors = {key: self._actors.get(key) or _on(key) for key in nodes}
        waiting = {actor.read.remote(): key for key, actor in self._actors.items()}
        ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE_S) if waiting else ([], [])
        found = []
        for one in ready:
            try:
                found.append({"name": nodes[waiting[one]], "reading": plain(ray.get(one))})
            except RayError:  # a new actor next time
                del self._actors[waiting[one]]
        return found


def _write(file: Path, found: list[dict[str, Any]]) -> None:
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        part.write_text(json.dumps(found), encoding="utf-8")
        part.replace(file)
    except OSError as error:
        _log.warning("the nodes' gauges were not written: %s", error)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _on(node: str) -> Any:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(NodeGauges).options(num_cpus=0, scheduling_strategy=here).remote()
