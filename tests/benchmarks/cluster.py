"""Runs on Ray: eight side by side, how far the screen lags behind, and how many runs store, stream and screen sustain.

The cluster is one of processes on this machine, so its nodes share the cores. Needs the extra: uv run --extra cluster.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from engine.control import RunControl
from engine.device import cpu_name
from engine.events import StepsCompleted
from engine.launch.backend import Job
from engine.launch.follow import follow
from engine.launch.ray import Cluster, require_ray
from engine.launch.stream import Stream
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store
from tests.benchmarks.reporting import report
from tests.fakes import started

_NODE_BYTES = int(1.2 * 2**30)  # room for one of the runs, not for two
_EVENTS_PER_S = 10
_CALLS_PER_RUN = 30  # a second: an event told and taken, and what is asked in between


@contextmanager
def _folders() -> Iterator[Folders]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        yield Folders(root / "home", root / "data", root / "cache")


def queue(num_pairs: int = 1) -> None:
    """Wall time of eight runs of one core each on a cluster of two nodes, against the same on one node."""
    require_ray()
    from engine.launch.ray.backend import RayBackend, capacity_of
    from engine.launch.scheduler import ListSource, Scheduler
    from tests.cluster.nodes import nodes, watched

    specs = [RunSpec("digits", name, epochs=8, dtype="float32", seed=seed) for seed in range(4)
             for name in ("resnet20", "resnet18")]  # fmt: skip

    def seconds(num_nodes: int) -> float:
        with nodes(num_nodes, num_cpus=1, memory=_NODE_BYTES), _folders() as folders, watched(num_nodes) as held:
            began = time.perf_counter()
            cluster = Cluster("the test's")
            scheduler = Scheduler(
                ListSource(specs), RayBackend(folders, cluster), capacity_of(cluster, folders), folders
            )
            for _ in scheduler.events(RunControl()):
                pass
            took = time.perf_counter() - began
            with Store(folders.database) as store:
                assert [record.status for record in store.runs()] == ["completed"] * len(specs)
        most = max(held.most_bytes.values()) / 2**20
        print(f"  {num_nodes} nodes: all busy in {held.looks_all_busy / held.looks:.0%} of the looks, at most "
              f"{max(held.most_actors.values())} runs and {most:.0f} of {_NODE_BYTES / 2**20:.0f} MiB on a node",
              flush=True)  # fmt: skip
        return took

    report("eight runs", "s", [(seconds(2), seconds(1)) for _ in range(num_pairs)], ("two nodes", "one node"))


class _Clocked:
    """An actor that trains nothing: ten events a second, with the time of day in the learning rate's place."""

    def check(self, versions: dict[str, str]) -> None:
        pass

    def train(self, task: Any) -> None:
        import ray

        from engine.launch.ray.task import EventSender
        from engine.training.loop import Ending

        ticket, _ = ray.get(task.channel.register.remote(task.run))
        sender = EventSender(task, ticket, RunControl())
        sender.send(started(task.spec, task.run))
        for step in range(1, 201):
            time.sleep(1 / _EVENTS_PER_S)
            sender.send(StepsCompleted(task.run, 1, step, (1.0,), (0.5,), time.time(), step, float(step)))
        sender.send(Ending("stopped"))
        sender.close()


def stream() -> None:
    """How long steps take from the worker, through Ray, the store and the stream, to a follower: 200 of them."""
    require_ray()
    import ray

    from engine.launch.ray.backend import RayBackend, Reservation
    from engine.launch.ray.request import request_for

    ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    spec, lags = RunSpec("digits", "resnet20"), list[float]()
    with _folders() as folders:
        actor = ray.remote(_Clocked).remote()
        backend = RayBackend(folders, Cluster("this"))
        handle = backend.start(Job(spec), slot=Reservation(request_for(spec, None, 2**30), actor))
        begun = threading.Event()

        def record() -> None:
            with closing(handle.events()) as events:
                stream = Stream(folders.run_folder(1))
                for event in events:
                    stream.write(event)
                    begun.set()
                stream.close()

        thread = threading.Thread(target=record)
        thread.start()
        begun.wait()
        for event in follow(1, folders, RunControl()):
            if isinstance(event, StepsCompleted):
                lags.append(1000 * (time.time() - event.learning_rate))
        thread.join()
    ray.shutdown()
    lags.sort()
    print(f"steps behind  ({cpu_name()}, n = {len(lags)})")
    print(f"  median {statistics.median(lags):.0f} ms, 95th percentile {lags[int(0.95 * len(lags))]:.0f} ms, "
          f"most {lags[-1]:.0f} ms")  # fmt: skip


def rates(num_runs: int = 50) -> None:
    """Events a second that the store, the event channel and a follower take, and the runs that this supports."""
    print(cpu_name())
    with _folders() as folders:
        stores = [Store(folders.database) for _ in range(num_runs)]
        runs = [store.create_run(RunSpec("digits", "resnet20")) for store in stores]
        for store, number in zip(stores, runs, strict=True):
            store.record(started(RunSpec("digits", "resnet20"), number))
        began, num_events = time.perf_counter(), 0
        for second in range(5):  # what each run leaves in a second, and its commit
            for store, number in zip(stores, runs, strict=True):
                for part in range(_EVENTS_PER_S):
                    step = 100 * (second * _EVENTS_PER_S + part) + 1
                    store._points.append(StepsCompleted(number, 1, step, (1.0,) * 100, (0.5,) * 100, 0.1, step, 1.0))
                store._flush_points()
                num_events += _EVENTS_PER_S
        seconds = time.perf_counter() - began
        num_bytes = folders.database.stat().st_size
        for store in stores:
            store.close()
        per_run = 1000 * seconds / (num_events / _EVENTS_PER_S)
        print(f"  store: {per_run:.2f} ms a run and second, {num_bytes / num_events:.0f} bytes an event of 100 steps: "
              f"{1000 / per_run:,.0f} runs at once at most")  # fmt: skip
        control = RunControl()
        with closing(Store(folders.database)) as store:
            number = store.create_run(RunSpec("digits", "resnet20"))
            written = Stream(folders.run_folder(number))
            events = [StepsCompleted(number, 1, 100 * index + 1, (1.0,) * 100, (0.5,) * 100, 0.1, 1, 1.0)
                      for index in range(5000)]  # fmt: skip
            began = time.perf_counter()
            for event in events:
                written.write(event)
            write_s = time.perf_counter() - began
            began = time.perf_counter()
            for _ in islice(follow(number, folders, control), len(events)):
                pass
            read_s = time.perf_counter() - began
            written.close()
        print(f"  stream: {len(events) / write_s:,.0f} events/s of 100 steps written, {len(events) / read_s:,.0f} read")
    require_ray()
    import ray

    from engine.launch.ray.channel import EventChannel, ResumePoint

    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    channel: Any = ray.remote(EventChannel).remote()
    runs_at_once, rounds = range(100), 20
    ray.get([channel.open.remote(run, ResumePoint()) for run in runs_at_once])
    tickets = [ticket for ticket, _ in ray.get([channel.register.remote(run) for run in runs_at_once])]
    began, num_taken = time.perf_counter(), 0
    for batch in range(1, rounds + 1):  # as each run's worker and driver do: one call at a time
        ray.get([channel.send.remote(run, tickets[run], batch, events[:1]) for run in runs_at_once])
        num_taken += sum(map(len, ray.get([channel.take.remote(run, 1.0) for run in runs_at_once])))
    calls_per_s = 2 * rounds * len(runs_at_once) / (time.perf_counter() - began)
    assert num_taken == rounds * len(runs_at_once), num_taken
    ray.shutdown()
    print(f"  event channel: {calls_per_s:,.0f} calls/s: {calls_per_s / _CALLS_PER_RUN:,.0f} runs at once at most")
