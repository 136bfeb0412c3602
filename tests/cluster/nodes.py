"""A cluster of processes on this machine, and a look at what each of its nodes really holds."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil


@contextmanager
def nodes(number: int, **resources: Any) -> Iterator[Any]:
    """A head that trains nothing, and `number` nodes with these resources each, as `.nodes`; Ray is connected to it."""
    import ray
    from ray.cluster_utils import Cluster

    if ray.is_initialized():
        ray.shutdown()
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(**resources) for _ in range(number)]
    ray.init(address=cluster.address, log_to_driver=False)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


@dataclass
class Held:
    """What the actors on each node held, looked at ten times a second: a node is known by the number of its raylet."""

    most_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    most_actors: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    looks: int = 0
    looks_all_busy: int = 0

    def look(self, num_nodes: int) -> None:
        found: dict[int, list[int]] = defaultdict(list)
        for process in psutil.process_iter(["cmdline", "ppid", "memory_info"]):
            words = process.info["cmdline"]
            if words and words[0].startswith("ray::TrainActor"):
                found[process.info["ppid"]].append(process.info["memory_info"].rss)
        self.looks += bool(found)
        self.looks_all_busy += len(found) == num_nodes
        for node, held in found.items():
            self.most_bytes[node] = max(self.most_bytes[node], sum(held))
            self.most_actors[node] = max(self.most_actors[node], len(held))


@contextmanager
def watched(num_nodes: int) -> Iterator[Held]:
    held, over = Held(), threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            held.look(num_nodes)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield held
    finally:
        over.set()
        thread.join()
