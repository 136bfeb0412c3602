"""The driver of a run on Ray: starts the workers, hands their events on, and hears the person at the keyboard.

`train_on_ray` stands in for `engine.training.train.train`: the same events, in the same order, from elsewhere. To be
imported after `engine.cluster.require_ray`.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import ray
import ray.train
from ray.exceptions import RayActorError, RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from engine.carried.stream import Asked
from engine.cluster import Cluster
from engine.cluster.exchange import Exchange, Newest
from engine.cluster.nodes import NodeWatch, gpu_bytes, most_cpus, most_memory
from engine.cluster.request import request_for
from engine.cluster.seat import take_seat
from engine.cluster.task import Task
from engine.cluster.worker import work
from engine.control import Control
from engine.device import versions
from engine.errors import ClusterError
from engine.events import DatasetProgressed, Event, SettingsTuned
from engine.paths import Places
from engine.spec import RunSpec
from engine.training.resuming import Resume
from engine.training.train import Ending

_LISTEN_S = 0.1
_MAX_LOSSES = 8  # of workers or nodes: each time the run goes on from its newest checkpoint
_GRACE_S = 30.0  # for the last events, once Ray says that all is over


def train_on_ray(
    run: int, spec: RunSpec, places: Places, control: Control, cluster: Cluster, resume: Resume | None,
    tunings: Mapping[str, SettingsTuned],
) -> Generator[Event, None, Ending]:  # fmt: skip
    """Train one run on workers, from where `resume` says, yielding what happens; returns how it ended.

    Raises:
        ClusterError: Ray cannot be started or reached, has too little for so many workers, or the workers failed.
    """
    newest = Newest(resume.started, resume.file, resume.sha256) if resume is not None else Newest()
    yield DatasetProgressed(run, "Ray", "starting", 0, 0, "")
    with connected(cluster, places):
        use_gpu = _check_resources(spec, cluster)
        line = _Line(run, newest)
        task = Task(run, spec, places, cluster.sync_batchnorm, line.exchange, tunings)
        storage = places.run_folder(run) / "ray"
        if cluster.num_workers == 1:
            fit = _Fit(partial(_train_in_seat, task, cluster.seat, use_gpu))
        else:
            fit = _Fit(_trainer(task, cluster, use_gpu, str(storage)).fit)
        yield DatasetProgressed(run, "the cluster", "waiting for room on", 0, 0, "")
        try:
            while True:
                over = fit.over
                events = line.take()
                for event in events:
                    if isinstance(event, Ending):
                        fit.wait()
                        return event
                    yield event
                line.ask(Asked.of(control))
                if over and not events:
                    raise fit.failure()
        finally:
            with suppress(ClusterError):
                if not fit.over:  # ask the workers to stop, and give them time for it
                    line.ask(Asked(stop=True))
                    fit.wait()
                line.close()
            shutil.rmtree(storage, ignore_errors=True)


_exchanges: dict[str, Any] = {}  # by Ray's job: an actor ends when nobody refers to it any more
_making = threading.Lock()


def _exchange() -> Any:
    """The one of this driver, on the head's node."""
    job = ray.get_runtime_context().get_job_id()
    with _making:
        if job not in _exchanges:
            head = NodeAffinitySchedulingStrategy(_head_node(), soft=False)
            made = ray.remote(Exchange).options(num_cpus=0, max_concurrency=10_000, scheduling_strategy=head)
            _exchanges.clear()
            _exchanges[job] = made.remote()
        return _exchanges[job]


class _Line:
    """The driver's end of the line to one run's workers.

    Raises:
        ClusterError: from any method, where the cluster's head is gone.
    """

    def __init__(self, run: int, newest: Newest) -> None:
        self.exchange = _exchange()
        self._run, self._asked = run, Asked()
        self._done(self.exchange.open.remote(run, newest))

    def take(self) -> list[Event | Ending]:
        """What they have told; waits a moment for it."""
        found: list[Event | Ending] = self._done(self.exchange.take.remote(self._run, _LISTEN_S))
        return found

    def ask(self, asked: Asked) -> None:
        if asked != self._asked:
            self._done(self.exchange.ask.remote(self._run, asked))
            self._asked = asked

    def close(self) -> None:
        self._done(self.exchange.close.remote(self._run))

    def _done(self, call: Any) -> Any:
        try:
            return ray.get(call)
        except RayError as error:
            raise ClusterError(
                f"the cluster's head does not answer any more ({type(error).__name__}); when there is one again, "
                f"reslab resume {self._run} goes on from the newest checkpoint"
            ) from error


class _Fit:
    """The workers' work, waited for in a thread."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._error: BaseException | None = None

        def fit() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=fit, name="ray", daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join(_GRACE_S)

    def failure(self) -> ClusterError:
        if isinstance(self._error, ClusterError):
            return self._error
        said = str(self._error or "the workers ended without a word").strip().splitlines()
        return ClusterError(f"the workers on Ray failed: {said[-1] if said else type(self._error).__name__}")


def _train_in_seat(task: Task, seat: Any, use_gpu: bool) -> None:
    """One worker's work, in `seat` or one that is waited for; where it is lost, in another one.

    Raises:
        ClusterError: it was lost too often, or the node has other versions.
        RayError: the worker failed.
    """
    for _ in range(_MAX_LOSSES + 1):
        if seat is None:
            seat = take_seat(request_for(task.spec, gpu_bytes() if use_gpu else 0, most_memory(), most_cpus()))
        try:
            if (problem := ray.get(seat.check.remote(versions()))) is not None:
                raise ClusterError(problem)
            ray.get(seat.train.remote(task))
            return
        except RayActorError:
            seat = None
        finally:
            if seat is not None:
                ray.kill(seat)
    raise ClusterError(f"the run's worker was lost {_MAX_LOSSES + 1} times; it can go on with reslab resume {task.run}")


def _trainer(task: Task, cluster: Cluster, use_gpu: bool, storage: str) -> TorchTrainer:
    """Ray Train's, of as many workers as there is room for, at most those that were asked for."""
    return TorchTrainer(
        work,
        train_loop_config={"task": task},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(1, cluster.num_workers), use_gpu=use_gpu, elastic_resize_monitor_interval_s=3600.0
        ),
        run_config=ray.train.RunConfig(
            name=f"reslab-{task.run}",
            storage_path=storage,
            failure_config=ray.train.FailureConfig(max_failures=_MAX_LOSSES),
        ),
    )


@contextmanager
def connected(cluster: Cluster, places: Places) -> Iterator[None]:
    """Ray, started or reached, and its nodes watched, until the end of the block; as it is where it is there already.

    Raises:
        ClusterError: it is not to be had.
    """
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            address=cluster.address or "local",
            include_dashboard=None if cluster.address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except Exception as error:
        where = f"the Ray cluster at {cluster.address}" if cluster.address else "Ray on this machine"
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ClusterError(f"cannot reach {where} ({first})") from error
    watch = NodeWatch(places)
    try:
        yield
    finally:
        watch.close()
        ray.shutdown()


def _check_resources(spec: RunSpec, cluster: Cluster) -> bool:
    """Whether the workers take GPUs. Raises ClusterError where the cluster will never have room for them."""
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    use_gpu = wants_gpu(spec)
    if use_gpu and gpus < cluster.num_workers:
        raise ClusterError(
            f"{cluster.num_workers} workers need as many GPUs, the cluster has {gpus}; take fewer workers"
        )
    if cpus < cluster.num_workers:
        raise ClusterError(
            f"{cluster.num_workers} workers need as many processor cores, the cluster has {cpus}; take fewer workers"
        )
    if cluster.sync_batchnorm and not use_gpu:
        raise ClusterError("torch synchronises batch-norm on GPUs alone; leave it out, or choose norm=group")
    return use_gpu


def wants_gpu(spec: RunSpec) -> bool:
    """Whether the run trains on GPUs of this cluster."""
    return spec.device == "cuda" or (spec.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)


def _head_node() -> str:
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("node:__internal_head__"):
            return str(node["NodeID"])
    raise ClusterError("the Ray cluster has no head node that is alive")
