"""Runs on Ray: two workers on one machine, and a cluster of a head and two nodes of which one is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import psutil
import pytest

from engine.control import RunControl
from engine.events import Event, RunContinued, RunEnded, RunStarted, StepsCompleted
from engine.lab import Lab
from engine.launch.ray import Cluster, require_ray
from engine.launch.requests import ControlRequest
from engine.memory.node_gauges import read_nodes
from engine.paths import Folders
from engine.spec import RunSpec
from engine.store.store import Store

if find_spec("ray") is None:
    pytest.skip("Ray is not installed: --extra cluster", allow_module_level=True)
require_ray()  # before it is imported, or under `uv run` it would send this whole folder to its workers

import ray  # noqa: E402
from ray.exceptions import RayError  # noqa: E402

from engine.launch.backend import Job  # noqa: E402
from engine.launch.in_process import InProcess  # noqa: E402
from engine.launch.ray.backend import ClusterCapacity, RayBackend, capacity_of  # noqa: E402
from engine.launch.ray.driver import connected  # noqa: E402  # they import Ray
from engine.launch.ray.nodes import NodeWatch  # noqa: E402
from engine.launch.ray.request import Request, request_for  # noqa: E402
from engine.launch.ray.task import EventSender, Task  # noqa: E402
from engine.launch.scheduler import ListSource, Scheduler, Source, StoredQueue  # noqa: E402
from tests.cluster.nodes import nodes, watched  # noqa: E402
from tests.fakes import events_of  # noqa: E402

pytestmark = pytest.mark.cluster

# At the default learning rate the rounding of a second thread alone moves a loss by 6e-4 within the epoch.
SPEC = RunSpec("digits", "resnet20", epochs=1, norm="group", dtype="float32", learning_rate=0.001)
TWO = Cluster(None, 2)
# Sums over two halves round differently, and a batch-norm before a ReLU makes more of it: up to 3.3e-5 at the twelfth
# step, for two seeds and two learning rates on an AVX2 processor. Another function is far off:
# `test_without_a_common_batch_norm_two_workers_make_another_run`.
ROUNDING = 1e-4


def folders_in(folder: Path) -> Folders:
    return Folders(folder / "home", folder / "data", folder / "cache")


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """Ray on this machine, started once for the tests of this file that need no more."""
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def losses(events: list[Event]) -> list[float]:
    return [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


def on_ray(
    folders: Folders, cluster: Cluster, job: Job, control: RunControl | None = None
) -> Generator[Event, None, None]:
    """The events of a run that this process drives."""
    return RayBackend(folders, cluster).start(job, control).events()


def run_all(source: Source, folders: Folders, control: RunControl | None = None, stop_at: int = 0) -> list[int]:
    """Run what a source has, side by side; returns the runs in the order in which they were first heard of. A stop is
    asked for when run `stop_at` is.
    """
    control, cluster, begun = control or RunControl(), Cluster("the test's"), list[int]()
    scheduler = Scheduler(source, RayBackend(folders, cluster), capacity_of(cluster, folders), folders)
    for event in scheduler.events(control):
        if event.run not in begun:
            begun.append(event.run)
            if event.run == stop_at:
                control.stop()
    return begun


@pytest.mark.parametrize(
    ("norm", "sync", "words"), [("group", False, ""), ("batch", True, ", batch-norm over all of them")]
)
def test_two_workers_make_the_run_of_one(machine: None, tmp_path: Path, norm: str, sync: bool, words: str) -> None:
    spec = SPEC.replace(norm=norm)
    alone = list(Lab(folders_in(tmp_path / "alone")).train(spec).events())
    folders = folders_in(tmp_path / "two")
    together = list(on_ray(folders, Cluster(None, 2, sync), Job(spec)))
    assert ended(together).status == "completed", ended(together).error
    assert losses(together) == pytest.approx(losses(alone), abs=ROUNDING)
    with Store(folders.database) as store:
        details = store.details(1)
        assert list(details.curve.losses) == losses(together)
        assert details.started is not None
        assert details.started.resolved.workers == f"2 workers on one machine{words}"
        assert (details.intact, details.record.status) == (True, "completed")
    assert not (folders.run_folder(1) / "ray").exists()


def test_without_a_common_batch_norm_two_workers_make_another_run(machine: None, tmp_path: Path) -> None:
    """So that the test above would notice if the statistics were not exchanged."""
    spec = SPEC.replace(norm="batch")
    alone = losses(list(Lab(folders_in(tmp_path / "alone")).train(spec).events()))
    together = losses(list(on_ray(folders_in(tmp_path / "two"), TWO, Job(spec))))
    assert max(abs(a - b) for a, b in zip(alone, together, strict=True)) > 10 * ROUNDING


def test_a_pause_a_stop_and_going_on(machine: None, tmp_path: Path) -> None:
    folders, control = folders_in(tmp_path), RunControl()
    spec, told = SPEC.replace(epochs=40), []
    for event in on_ray(folders, TWO, Job(spec), control):
        told.append(type(event).__name__)
        if isinstance(event, StepsCompleted) and "RunPaused" not in told:
            control.pause()
        elif told[-1] == "RunPaused":
            control.resume()
        elif told[-1] == "RunResumed":
            control.stop()
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"
    assert event.steps is not None
    assert 0 < event.steps < 40 * 12
    control = RunControl()
    for event in on_ray(folders, TWO, Job(spec, 1), control):
        if isinstance(event, RunContinued):
            assert event.step > 0
            assert event.differs == ()
            control.stop()
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"


def test_what_the_cluster_cannot_do_is_one_sentence(machine: None, tmp_path: Path) -> None:
    end = ended(list(on_ray(folders_in(tmp_path), Cluster(None, 3), Job(SPEC))))
    assert end.status == "failed"
    assert "3 workers cannot share 2 processor cores" in str(end.error)


def test_a_worker_that_fails_says_why(machine: None, tmp_path: Path) -> None:
    spec = SPEC.replace(dataset=f"folder:{tmp_path}")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_text("not an image, as only the worker's reading shows")
    end = ended(list(on_ray(folders_in(tmp_path / "lab"), TWO, Job(spec))))
    assert end.status == "failed"
    assert "no image in" in str(end.error)


def test_several_workers_reach_what_one_does(machine: None, tmp_path: Path) -> None:
    """ResNet-18, batch-norm per worker: three seeds each, whose means are no further apart than one side's seeds."""
    found = []
    for cluster in (None, TWO):
        folders = folders_in(tmp_path / str(cluster is None))
        backend = InProcess(folders) if cluster is None else RayBackend(folders, cluster)
        accuracies = []
        for seed in range(3):
            end = ended(list(backend.start(Job(RunSpec("digits", "resnet18", seed=seed, dtype="float32"))).events()))
            assert end.final is not None, end.error
            accuracies.append(end.final.accuracy)
        found.append(accuracies)
    apart = abs(mean(found[0]) - mean(found[1]))
    assert apart <= max(max(accuracies) - min(accuracies) for accuracies in found)


class Unresponsive:
    """An event channel that receives every call but does not answer the first `times`."""

    def __init__(self, times: int, request: ControlRequest) -> None:
        self.times, self.request = times, request
        self.received: list[tuple[int, int, list[Any]]] = []
        self.send = self

    def remote(self, run: int, ticket: int, batch: int, events: list[Any]) -> Any:
        self.received.append((ticket, batch, events))
        if len(self.received) <= self.times:
            raise RayError("no answer")
        return ray.put(self.request)


def test_events_that_are_not_answered_are_sent_again_by_the_same_number(machine: None, tmp_path: Path) -> None:
    channel, control = Unresponsive(2, ControlRequest(pause=True)), RunControl()
    sender = EventSender(Task(1, SPEC, folders_in(tmp_path), False, {}, channel), 7, control)
    (event,) = (event for event in events_of(SPEC) if isinstance(event, RunStarted))
    sender.send(event)
    sender.close()
    said = [call for call in channel.received if call[2]]
    assert said[0] == (7, said[0][1], [event])
    assert len(said) in (1, 2, 3)
    assert all(call == said[0] for call in said)
    assert len({batch for _, batch, _ in channel.received[:3]}) == 1
    assert control.pause_requested


def test_a_run_whose_driver_is_gone_stops(machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.launch.ray.task.PATIENCE_S", 0.3)
    channel, control = Unresponsive(10**6, ControlRequest()), RunControl()
    sender = EventSender(Task(1, SPEC, folders_in(tmp_path), False, {}, channel), 7, control)
    deadline = time.monotonic() + 20
    while not control.stop_requested:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert control.stop_reason == "the driver of the run was lost"
    sender.close()


def test_what_no_node_can_run_is_tried_three_times_and_recorded(
    machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, folders = list[Request](), folders_in(tmp_path)

    def request_actor(request: Request) -> Any:
        tries.append(request)
        raise RayError("no module named engine\nand much more")

    monkeypatch.setattr("engine.launch.ray.backend.request_actor", request_actor)
    monkeypatch.setattr("engine.launch.ray.backend.REST_S", 0.0)
    specs = [SPEC, SPEC.replace(seed=1)]
    begun = run_all(ListSource(specs), folders)
    assert len(tries) == 6
    with Store(folders.database) as store:
        records = store.runs()
    assert [(record.status, record.spec["seed"]) for record in records] == [("failed", 1), ("failed", 0)]
    assert "no node of the cluster can run it (no module named engine);" in str(records[0].error)
    assert begun == [1, 2]


def test_a_queue_that_cannot_run_is_recorded_run_by_run(
    machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU in the cluster; weights that are not there, found only once it has its actor; the next one trains."""
    monkeypatch.setattr("engine.launch.ray.backend.RETURN_S", 0.3)
    folders = folders_in(tmp_path)
    specs = [SPEC.replace(device="cuda"), SPEC.replace(weights=str(tmp_path / "none.pth")), SPEC]
    run_all(ListSource(specs), folders)
    with Store(folders.database) as store:
        last, second, first = store.runs()
    assert (first.status, first.error) == (
        "failed", "the run needs a GPU, the cluster has none; choose device=auto or cpu"
    )  # fmt: skip
    assert second.status == "failed"
    assert "none.pth" in str(second.error)
    assert last.status == "completed", last.error


def test_an_actor_lost_while_idle_does_not_fail_the_next_run(machine: None, tmp_path: Path) -> None:
    folders = folders_in(tmp_path)
    cluster = Cluster("the test's")
    with ClusterCapacity(cluster, folders) as capacity:
        for _ in range(3):
            lost = capacity.reserve(SPEC, lambda: True)
            assert lost is not None
            ray.kill(lost.actor)  # type: ignore[attr-defined]
            capacity.release(lost)
        for _ in Scheduler(ListSource([SPEC]), RayBackend(folders, cluster), capacity, folders).events(RunControl()):
            pass
    with Store(folders.database) as store:
        (record,) = store.runs()
    assert record.status == "completed", record.error


@pytest.fixture
def two_nodes() -> Iterator[Any]:
    """A head that trains nothing, and two nodes with a core each; `nodes` are the two."""
    with nodes(2, num_cpus=1) as cluster:
        yield cluster


@pytest.mark.parametrize("cluster", [TWO, Cluster("the test's", 1)], ids=["two workers", "one worker"])
def test_a_node_that_dies_costs_no_run_and_no_step_is_stored_twice(
    two_nodes: Any, tmp_path: Path, cluster: Cluster
) -> None:
    folders, events, killed = folders_in(tmp_path), [], False
    epochs = 8 if cluster is TWO else 40  # alone it is quicker, and must not be over when the node is killed
    spec = SPEC.replace(epochs=epochs, checkpoint_every=1)
    for event in on_ray(folders, cluster, Job(spec)):
        events.append(event)
        if not killed and isinstance(event, StepsCompleted) and event.last_step > 40:
            for node in _training_nodes(two_nodes, cluster):
                two_nodes.remove_node(node)
            killed = True
    assert killed
    assert ended(events).status == "completed", ended(events).error
    (again,) = (event for event in events if isinstance(event, RunContinued))
    assert again.step > 0
    assert (cluster is TWO) == any("workers" in text for text in again.differs)
    assert len([event for event in events if isinstance(event, RunStarted)]) == 1
    with Store(folders.database) as store:
        details = store.details(1)
        assert len(details.curve.losses) == epochs * 12
        assert [epoch.epoch for epoch in details.epochs] == list(range(1, epochs + 1))
        assert [item.epoch for item in details.evaluations] == list(range(epochs + 1))
        assert details.intact is True


def _training_nodes(made: Any, cluster: Cluster) -> list[Any]:
    """The node of the run's one actor, or one of the two that share the run."""
    if cluster is TWO:
        return [made.nodes[1]]
    actors = [
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [""])[0].startswith("ray::TrainActor")
    ]
    raylets = {process.ppid() for process in actors}
    return [node for node in made.nodes if node.all_processes["raylet"][0].process.pid in raylets]


def test_a_queue_of_eight_keeps_both_nodes_busy_and_within_their_memory(tmp_path: Path) -> None:
    """Each node has room for one ResNet-18 and one ResNet-20, or two of the latter; by the processes' real memory."""
    specs = [RunSpec("digits", model, epochs=6, dtype="float32", seed=seed) for seed in range(4)
             for model in ("resnet20", "resnet18")]  # fmt: skip
    folders = folders_in(tmp_path)
    num_bytes = request_for(specs[0], None, 2**40).memory + request_for(specs[1], None, 2**40).memory + 2**26
    with nodes(2, num_cpus=4, memory=num_bytes), watched(2) as held:
        begun = run_all(ListSource(specs), folders)
    with Store(folders.database) as store:
        records = store.runs()
    assert [record.status for record in records] == ["completed"] * 8, [record.error for record in records]
    assert begun == list(range(1, 9))
    assert [record.spec["seed"] for record in reversed(records)] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(record.workers.startswith("1 worker on ") for record in records)
    assert len(held.most_actors) == 2
    assert max(held.most_actors.values()) <= 2
    assert max(held.most_bytes.values()) <= num_bytes
    assert held.looks_all_busy > held.looks / 2, held


def test_stopping_the_queue_stops_all_and_leaves_what_waits(tmp_path: Path) -> None:
    specs = [RunSpec("digits", "resnet20", epochs=500, dtype="float32", seed=seed) for seed in range(3)]
    folders, control = folders_in(tmp_path), RunControl()
    with Store(folders.database) as store:
        store.enqueue(specs)

    with nodes(2, num_cpus=1, memory=int(1.2 * 2**30)):
        run_all(StoredQueue(folders), folders, control, stop_at=2)
    with Store(folders.database) as store:
        assert [record.status for record in store.runs()] == ["stopped"] * 2
        assert [item.spec for item in store.waiting()] == [specs[2]]


def test_nodes_tell_of_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "another")
    with nodes(1, num_cpus=1), closing(NodeWatch(folders_in(tmp_path))):
        (tmp_path / "home").mkdir()
        deadline = time.monotonic() + 60
        while not (found := read_nodes(tmp_path / "home")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert {node.host.total_bytes for node in found} == {psutil.virtual_memory().total}
    assert read_nodes(tmp_path / "home") == ()


def test_by_the_command_line_and_picked_up_by_another_terminal(tmp_path: Path) -> None:
    """Ray is started for it by a process of its own; the terminal that asked for it is lost, another one attaches."""
    command = (sys.executable, "-m", "tui", "--home", str(tmp_path))
    words = ("train", "digits", "resnet18", "--epochs", "30", "--on", "ray", "--num-workers", "2", "--json")
    asking = subprocess.Popen((*command, *words), stdout=subprocess.PIPE, text=True)
    assert asking.stdout is not None
    for line in asking.stdout:
        if json.loads(line)["event"] == "steps_completed":
            break
    asking.send_signal(signal.SIGHUP)
    assert asking.wait(20) == 0
    attached = subprocess.run((*command, "attach", "1", "--json"), capture_output=True, text=True, timeout=200)
    told = [json.loads(line) for line in attached.stdout.splitlines()]
    (begun,) = (event for event in told if event["event"] == "run_started")
    assert begun["resolved"]["workers"] == "2 workers on one machine, batch-norm per worker"
    assert told[-1]["status"] == "completed", told[-1]
    assert sum(len(event["losses"]) for event in told if event["event"] == "steps_completed") == 30 * 12
    listed = subprocess.run((*command, "runs", "--json"), capture_output=True, text=True, check=True)
    (record,) = json.loads(listed.stdout)
    assert record["workers"].startswith("2 workers")


@contextmanager
def running_cluster(**environment: str) -> Iterator[str]:
    """`ray start --head` with these variables; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="ray")  # of a short name, for Ray's sockets
    command = (str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}")
    head = subprocess.Popen(
        (*command, "--num-cpus=2", "--include-dashboard=false", f"--temp-dir={folder}"), env=os.environ | environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGINT)
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_cluster_that_runs_already_is_reached_by_its_address(tmp_path: Path) -> None:
    """With Ray's tokens on both sides, on one alone, and where nothing answers."""
    token = {"RAY_AUTH_TOKEN": "0" * 64}

    def train(address: str, **environment: str) -> dict[str, Any]:
        words = ("train", "digits", "resnet20", "--epochs", "1", "--on", f"ray:{address}", "--json")
        command = (sys.executable, "-m", "tui", "--home", str(tmp_path), *words)
        environment = {name: text for name, text in os.environ.items() if name != "RAY_AUTH_MODE"} | environment
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
        end: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return end

    ray.shutdown()
    with running_cluster(RAY_AUTH_MODE="token", **token) as address:
        assert train(address, **token)["status"] == "completed"
    assert f"nothing answers at {address} (Connection refused)" in train(address, **token)["error"]
    with running_cluster(RAY_AUTH_MODE="disabled") as address:
        assert "set RAY_AUTH_MODE=disabled here too" in train(address, **token)["error"]
        assert train(address, RAY_AUTH_MODE="disabled")["status"] == "completed"


def test_a_signal_finds_the_handler_that_was_there(tmp_path: Path) -> None:
    """Ray's own would leave at once, and the last row of a run unwritten."""
    ray.shutdown()
    before, heard = signal.getsignal(signal.SIGTERM), list[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with connected(Cluster(), folders_in(tmp_path)):
            signal.raise_signal(signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
