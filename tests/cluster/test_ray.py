"""Runs on Ray: two workers on one machine, and a cluster of a head and two nodes of which one is killed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.cluster import Cluster, require_ray
from engine.control import RunControl
from engine.events import Event, RunContinued, RunEnded, RunStarted, StepsCompleted
from engine.paths import Places
from engine.results.store import Store
from engine.runs import Lab, resume, run
from engine.spec import RunSpec

ray = pytest.importorskip("ray")
require_ray()
pytestmark = pytest.mark.cluster

# At the default learning rate the rounding of a second thread alone moves a loss by 6e-4 within the epoch.
SPEC = RunSpec("digits", "resnet20", epochs=1, norm="group", dtype="float32", learning_rate=0.001)
TWO = Cluster(None, 2)


def places_in(folder: Path) -> Places:
    return Places(folder / "home", folder / "data", folder / "cache")


@pytest.fixture(scope="module")
def machine() -> Iterator[None]:
    """Ray on this machine, started once for the tests of this file that need no more."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def losses(events: list[Event]) -> list[float]:
    return [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]


def ended(events: list[Event]) -> RunEnded:
    assert isinstance(events[-1], RunEnded)
    return events[-1]


def test_two_workers_make_the_run_of_one(machine: None, tmp_path: Path) -> None:
    alone = list(run(SPEC, Lab(places_in(tmp_path / "alone")), RunControl()))
    places = places_in(tmp_path / "two")
    together = list(run(SPEC, Lab(places, cluster=TWO), RunControl()))
    assert ended(together).status == "completed", ended(together).error
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    with Store(places.database) as store:
        details = store.details(1)
        assert list(details.curve.losses) == losses(together)
        assert details.started is not None
        assert details.started["resolved"]["workers"] == "2 workers on one machine, batch-norm per worker"
        assert (details.intact, details.record.status) == (True, "completed")
    assert not (places.run_folder(1) / "ray").exists()


def test_a_pause_a_stop_and_going_on(machine: None, tmp_path: Path) -> None:
    places, control = places_in(tmp_path), RunControl()
    spec, told = SPEC.replace(epochs=40), []
    for event in run(spec, Lab(places, cluster=TWO), control):
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
    for event in resume(1, Lab(places, cluster=TWO), control):
        if isinstance(event, RunContinued):
            assert event.step > 0
            assert event.differs == ()
            control.stop()
    assert isinstance(event, RunEnded)
    assert event.status == "stopped"


def test_what_the_cluster_cannot_do_is_one_sentence(machine: None, tmp_path: Path) -> None:
    for cluster, says in (
        (Cluster(None, 3), "3 workers need as many processor cores, the cluster has 2"),
        (Cluster(None, 2, sync_batchnorm=True), "synchronises batch-norm on GPUs alone"),
    ):
        end = ended(list(run(SPEC, Lab(places_in(tmp_path), cluster=cluster), RunControl())))
        assert end.status == "failed"
        assert says in str(end.error)


def test_a_worker_that_fails_says_why(machine: None, tmp_path: Path) -> None:
    spec = SPEC.replace(dataset=f"folder:{tmp_path}")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    end = ended(list(run(spec, Lab(places_in(tmp_path / "lab"), cluster=TWO), RunControl())))
    assert end.status == "failed"
    assert "no image in" in str(end.error)


@pytest.fixture
def three_nodes() -> Iterator[Any]:
    """A head that trains nothing, and two nodes with a core each; `nodes` are the two."""
    from ray.cluster_utils import Cluster as Nodes

    if ray.is_initialized():
        ray.shutdown()
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_that_dies_costs_no_run_and_no_step_is_stored_twice(three_nodes: Any, tmp_path: Path) -> None:
    places, events, killed = places_in(tmp_path), [], False
    spec = SPEC.replace(epochs=8, checkpoint_every=1)
    for event in run(spec, Lab(places, cluster=TWO), RunControl()):
        events.append(event)
        if not killed and isinstance(event, StepsCompleted) and event.last_step > 40:
            three_nodes.remove_node(three_nodes.nodes[1])
            killed = True
    assert killed
    assert ended(events).status == "completed", ended(events).error
    (again,) = (event for event in events if isinstance(event, RunContinued))
    assert again.step > 0
    assert any("workers" in text for text in again.differs)
    assert len([event for event in events if isinstance(event, RunStarted)]) == 1
    with Store(places.database) as store:
        details = store.details(1)
        assert len(details.curve.losses) == 8 * 12
        assert [epoch.epoch for epoch in details.epochs] == list(range(1, 9))
        assert [item.epoch for item in details.evaluations] == list(range(9))
        assert details.intact is True
