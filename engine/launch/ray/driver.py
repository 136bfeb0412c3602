"""The driver of a run on Ray: starts the workers, passes their events on, and sends them pause and stop requests.

`train_on_ray` stands in for `engine.training.loop.train`: the same events, in the same order. To be imported
after `engine.launch.ray.require_ray`.
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
from engine.launch.ray.mailbox import Mailbox, WorkerThread
from engine.launch.ray.nodes import NodeWatch
from engine.launch.ray.task import Task
from engine.launch.ray.worker import work
from engine.launch.requests import ControlRequest
from engine.paths import Folders
from engine.spec import RunSpec
from engine.text import counted
from engine.training.loop import Ending
from engine.training.resume import Resume

_CONNECT_TIMEOUT_S = 5.0


def train_on_ray(
    task: Task, cluster: Cluster, actor: Any, control: Control, resume: Resume
) -> Generator[Event, None, Ending]:
    """Train one run on workers, starting at `resume`; yields its events and returns how it ended. `actor` is the one
    reserved for it, if any.

    Raises:
        ClusterError: Ray cannot be started or reached, has too little room for the workers, or the workers failed.
    """
    newest = ResumePoint() if resume.is_fresh else ResumePoint(resume.started, resume.file, resume.sha256)
    yield DatasetProgressed(task.run, "Ray", "starting", 0, 0, "")
    run, folders = task.run, task.folders
    with connected(cluster, folders):
        use_gpu = check_resources(task.spec, cluster)
        mailbox = Mailbox(run, newest)
        task = replace(task, channel=mailbox.channel)
        storage = folders.run_folder(run) / "ray"
        if cluster.num_workers == 1:
            thread = WorkerThread(partial(train_in_actor, task, actor, use_gpu, control))
        else:
            thread = WorkerThread(_trainer(task, cluster, use_gpu, str(storage)).fit)
        yield DatasetProgressed(run, "the cluster", "waiting for room on", 0, 0, "")
        has_events = ended = False
        try:
            while True:
                is_done = thread.is_done
                events = mailbox.take()
                for event in events:
                    if isinstance(event, Ending):
                        ended = True
                        thread.wait()
                        return event
                    yield event
                has_events = has_events or bool(events)
                mailbox.send_request(ControlRequest.of(control))
                if control.stop_requested and not has_events:  # no worker is there yet to receive it
                    return Ending("stopped", control.stop_reason)
                if is_done and not events:
                    if thread.stopped_early:
                        return Ending("stopped", control.stop_reason)
                    raise thread.failure(folders.log)
        finally:
            with suppress(ClusterError):
                if has_events and not ended and not thread.is_done:  # stop the workers, and give them time for it
                    mailbox.send_request(ControlRequest(stop=True))
                    thread.wait()
                mailbox.close()
            shutil.rmtree(storage, ignore_errors=True)


def _trainer(task: Task, cluster: Cluster, use_gpu: bool, storage: str) -> TorchTrainer:
    """A Ray Train trainer with as many workers as there is room for, up to the number requested."""
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
    """Start or reach Ray, and watch its nodes, until the end of the block. Does nothing if Ray is initialized already.

    Raises:
        ClusterError: Ray is not available.
    """
    if ray.is_initialized():
        yield
        return
    if cluster.address:
        _check_address(cluster.address)
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
        text = f"cannot reach {where} ({first})"
        if cluster.address and os.environ.get("RAY_AUTH_MODE") != "token":
            text += "; a cluster with token authentication needs its head's ~/.ray/auth_token on this machine too"
        raise ClusterError(text) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray's handler exits at once, before the run's end is stored
    watch = NodeWatch(folders)
    try:
        yield
    finally:
        watch.close()
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise ClusterError if nothing answers at HOST:PORT; Ray itself would try for over a minute."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():  # one of Ray's own names, such as auto
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ClusterError(
            f"nothing answers at {address} ({getattr(error, 'strerror', None) or error}); use the address that "
            "ray start --head prints"
        ) from error


def check_resources(spec: RunSpec, cluster: Cluster) -> bool:
    """Whether the workers use GPUs. Raises ClusterError if the cluster can never have room for them."""
    found = ray.cluster_resources()
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    use_gpu = wants_gpu(spec)
    if use_gpu and not gpus:
        raise ClusterError("the run needs a GPU, the cluster has none; choose device=auto or cpu")
    if use_gpu and gpus < cluster.num_workers:
        raise ClusterError(
            f"{counted(cluster.num_workers, 'worker')} cannot share {counted(gpus, 'GPU')}: each needs its own; use "
            "fewer workers"
        )
    if cpus < cluster.num_workers:
        raise ClusterError(
            f"{counted(cluster.num_workers, 'worker')} cannot share {counted(cpus, 'processor core')}: each needs its "
            "own; use fewer workers"
        )
    return use_gpu


def wants_gpu(spec: RunSpec) -> bool:
    """Whether the run trains on GPUs of this cluster."""
    return spec.device == "cuda" or (spec.device == "auto" and ray.cluster_resources().get("GPU", 0) > 0)
