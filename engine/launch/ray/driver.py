"""The driver of a run on Ray: starts the workers, hands their events on, and hears the person at the keyboard.

`train_on_ray` stands in for `engine.training.loop.train`: the same events, in the same order, from elsewhere. To be
imported after `engine.launch.ray.require_ray`.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from engine.control import Control
from engine.errors import ClusterError
from engine.events import DatasetProgressed, Event
from engine.launch.ray import Cluster
from engine.launch.ray.actor import MAX_LOSSES, train_in_actor
from engine.launch.ray.channel import ResumePoint
from engine.launch.ray.mailbox import Fit, Line
from engine.launch.ray.nodes import NodeWatch
from engine.launch.ray.task import Task
from engine.launch.ray.worker import work
from engine.launch.requests import ControlRequest
from engine.paths import Folders
from engine.spec import RunSpec
from engine.text import counted
from engine.training.loop import Ending
from engine.training.resume import Resume

_KNOCK_S = 5.0


def train_on_ray(
    task: Task, cluster: Cluster, seat: Any, control: Control, resume: Resume
) -> Generator[Event, None, Ending]:
    """Train one run on workers, from where `resume` says, yielding what happens; returns how it ended. `seat` is a
    process that waits for it already, None where there is none.

    Raises:
        ClusterError: Ray cannot be started or reached, has too little for so many workers, or the workers failed.
    """
    newest = ResumePoint() if resume.is_fresh else ResumePoint(resume.started, resume.file, resume.sha256)
    yield DatasetProgressed(task.run, "Ray", "starting", 0, 0, "")
    run, folders = task.run, task.folders
    with connected(cluster, folders):
        use_gpu = check_resources(task.spec, cluster)
        line = Line(run, newest)
        task = replace(task, channel=line.channel)
        storage = folders.run_folder(run) / "ray"
        if cluster.num_workers == 1:
            fit = Fit(partial(train_in_actor, task, seat, use_gpu, control))
        else:
            fit = Fit(_trainer(task, cluster, use_gpu, str(storage)).fit)
        yield DatasetProgressed(run, "the cluster", "waiting for room on", 0, 0, "")
        heard = ended = False
        try:
            while True:
                over = fit.over
                events = line.take()
                for event in events:
                    if isinstance(event, Ending):
                        ended = True
                        fit.wait()
                        return event
                    yield event
                heard = heard or bool(events)
                line.ask(ControlRequest.of(control))
                if control.stop_requested and not heard:  # nobody is there yet to hear of it
                    return Ending("stopped", control.stop_reason)
                if over and not events:
                    if fit.gave_up:
                        return Ending("stopped", control.stop_reason)
                    raise fit.failure(folders.log)
        finally:
            with suppress(ClusterError):
                if heard and not ended and not fit.over:  # ask the workers to stop, and give them time for it
                    line.ask(ControlRequest(stop=True))
                    fit.wait()
                line.close()
            shutil.rmtree(storage, ignore_errors=True)


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
            failure_config=ray.train.FailureConfig(max_failures=MAX_LOSSES),
        ),
    )


@contextmanager
def connected(cluster: Cluster, folders: Folders) -> Iterator[None]:
    """Ray, started or reached, and its nodes watched, until the end of the block; as it is where it is there already.

    Raises:
        ClusterError: it is not available.
    """
    if ray.is_initialized():
        yield
        return
    if cluster.address:
        _knock(cluster.address)
    handler = signal.getsignal(signal.SIGTERM)
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
        said = f"cannot reach {where} ({first})"
        if cluster.address and os.environ.get("RAY_AUTH_MODE") != "token":
            said += "; a cluster with token authentication wants its head's ~/.ray/auth_token here as well"
        raise ClusterError(said) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's own leaves at once, and the run's last row unwritten
    watch = NodeWatch(folders)
    try:
        yield
    finally:
        watch.close()
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise ClusterError where nobody answers at HOST:PORT; Ray itself would try for over a minute."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():  # a name of Ray's, such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nobody answers at {address} ({getattr(error, 'strerror', None) or error}); ray start --head prints the "
            "address of the cluster that it begins"
        ) from error


def check_resources(spec: RunSpec, cluster: Cluster) -> bool:
    """Whether the workers take GPUs. Raises ClusterError where the cluster will never have room for them."""
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    use_gpu = wants_gpu(spec)
    if use_gpu and not gpus:
        raise ClusterError("the run wants a GPU, the cluster has none; choose device=auto or cpu")
    if use_gpu and gpus < cluster.num_workers:
        raise ClusterError(
            f"{counted(cluster.num_workers, 'worker')} cannot share {counted(gpus, 'GPU')}: each needs its own; take "
            "fewer workers"
        )
    if cpus < cluster.num_workers:
        raise ClusterError(
            f"{counted(cluster.num_workers, 'worker')} cannot share {counted(cpus, 'processor core')}: each needs its "
            "own; take fewer workers"
        )
    return use_gpu


def wants_gpu(spec: RunSpec) -> bool:
    """Whether the run trains on GPUs of this cluster."""
    return spec.device == "cuda" or (spec.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
