"""The sides of a training benchmark, each a process of its own that prints its images per second.

`reslab` trains through the engine as the command line does; `bare` is the shortest PyTorch loop on preloaded tensors;
`torch` is the same with torch's own convolutions where reslab has matrix products, as in all that follow: `script`,
the DataLoader script that most people begin with, and `lightning` and `fastai`, what those libraries' users write. All
train the same network, with the same optimizer and batches of 128, for the same number of seconds after one second
to warm up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.control import RunControl
from engine.events import RunStarted, StepsCompleted
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.benchmarks.reporting import data_folder

BATCH = 128
_WARM_S = 1.0  # the heap grows, and libraries choose their algorithms
_WARM_STEPS = 3


@dataclass(frozen=True, slots=True)
class Task:
    dataset: str
    model: str
    size: int
    seconds: float
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def spec(self) -> RunSpec:
        found = {"image_size": self.size, "dtype": self.dtype, "device": self.device, "epochs": 1000}
        return RunSpec.from_mapping({"dataset": self.dataset, "model": self.model, **found})

    @property
    def autocast(self) -> Any:
        """bfloat16 where the task asks for it."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.dtype == "bfloat16")

    @property
    def shape(self) -> DataShape:
        return (
            DataShape(1, self.size, self.size, 10) if self.dataset == "mnist" else DataShape(3, self.size, self.size, 2)
        )


def reslab(task: Task) -> dict[str, Any]:
    """The engine; what it measures for `dtype auto` is measured before the clock starts, as in a first run."""
    from engine.lab import Lab

    control, started = RunControl(), None
    first: StepsCompleted | None = None
    with tempfile.TemporaryDirectory() as home:
        folders = Folders(Path(home), data_folder(), Path(home))
        last: StepsCompleted | None = None
        for event in Lab(folders).train(task.spec, control).events():
            if isinstance(event, RunStarted):
                started = event
            if isinstance(event, StepsCompleted):
                last = event
                if first is None and event.train_s >= _WARM_S:
                    first = event
                if first is not None and event.train_s - first.train_s >= task.seconds:
                    control.stop()
    assert started is not None
    assert first is not None
    assert last is not None
    resolved = started.resolved
    speed = (last.images - first.images) / (last.train_s - first.train_s)
    chosen = f"{resolved.dtype} {resolved.memory_format} {resolved.num_threads} threads"
    return {"images_per_s": speed, "form": chosen, "gain": resolved.gain}


def bare(task: Task, as_torch: bool = False) -> dict[str, Any]:
    """Normalised float32 tensors in memory, a permutation, and five lines of PyTorch."""
    pixels, labels = _loaded(task)
    model = _network(task, as_torch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    return _timed(task, _steps(task, model.train(), optimizer, _batches(pixels, labels)))


def _batches(pixels: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Whole batches for ever, in an order drawn anew for each pass."""
    while True:
        for chosen in torch.split(torch.randperm(len(pixels), device=pixels.device), BATCH):
            if len(chosen) == BATCH:
                yield pixels[chosen], labels[chosen]


def synthetic(task: Task) -> dict[str, Any]:
    """The same on one batch of random pixels, so that nothing is picked out or read."""
    model = _network(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    shape = task.shape
    pixels = torch.randn(BATCH, shape.channels, shape.height, shape.width, device=task.device)
    labels = torch.randint(shape.num_classes, (BATCH,), device=task.device)
    return _timed(task, _steps(task, model.train(), optimizer, repeat((pixels, labels))))


def graph(task: Task) -> dict[str, Any]:
    """The barest loop around a CUDA graph of the whole step, on preloaded tensors."""
    pixels, labels = _loaded(task)
    model = _network(task).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    batches = _batches(pixels, labels)
    static = [values.clone() for values in next(batches)]
    step = _steps(task, model, optimizer, repeat((static[0], static[1])))
    with torch.cuda.stream(torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        for _ in range(_WARM_STEPS):
            next(step)
    torch.cuda.synchronize()
    recorded = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(recorded):
        next(step)

    def steps() -> Iterator[int]:
        for batch in batches:
            for values, new in zip(static, batch, strict=True):
                values.copy_(new)
            recorded.replay()
            yield BATCH

    return _timed(task, steps())


def torchs(task: Task) -> dict[str, Any]:
    """The same, with every convolution computed as torch computes it."""
    return bare(task, as_torch=True)


def script(task: Task) -> dict[str, Any]:
    """torchvision's dataset and transforms, a DataLoader with two workers, the loop of the tutorials."""
    model = _network(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = _loader(task)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for pixels, labels in loader:
                yield pixels.to(task.device, non_blocking=True), labels.to(task.device, non_blocking=True)

    return _timed(task, _steps(task, model.train(), optimizer, batches()))


def lightning(task: Task) -> dict[str, Any]:
    """A LightningModule and a Trainer without logger, checkpoints and bar, which only cost time."""
    import lightning as L

    model, clock = _network(task), _Clock(task)

    class Module(L.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, number: int) -> Tensor:
            pixels, labels = batch
            return F.cross_entropy(self.model(pixels), labels)

        def on_train_batch_end(self, outputs: Any, batch: Any, number: int) -> None:
            if clock.over(len(batch[1])):
                self.trainer.should_stop = True

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    precision: Any = "bf16-mixed" if task.dtype == "bfloat16" else "32-true"
    trainer = L.Trainer(
        max_epochs=1000, min_epochs=0, accelerator="cpu" if task.device == "cpu" else "gpu", devices=1,
        precision=precision, enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(Module(), _loader(task))
    return clock.found


def fastai(task: Task) -> dict[str, Any]:
    """A Learner on DataLoaders with two workers; the images are resized before, which is kinder than its usual path."""
    import fastai.callback.progress  # noqa: F401  # gives Learner its no_bar
    from fastai.data.core import DataLoaders
    from fastai.learner import Callback, CancelFitException, Learner
    from torch.utils.data import TensorDataset

    clock = _Clock(task)

    class Watch(Callback):  # type: ignore[misc]
        def after_batch(self) -> None:
            if clock.over(len(self.yb[0])):
                raise CancelFitException

    loaders = DataLoaders.from_dsets(
        TensorDataset(*_loaded(task)), bs=BATCH, num_workers=2, device=torch.device(task.device)
    )
    learner = Learner(loaders, _network(task), loss_func=nn.CrossEntropyLoss(), opt_func=_fastai_sgd, cbs=Watch())
    with learner.no_bar(), learner.no_logging():
        learner.fit(1000, lr=0.01)
    return clock.found


def _fastai_sgd(parameters: Any, lr: float) -> Any:
    from fastai.optimizer import SGD

    return SGD(parameters, lr, mom=0.9)


def turns(task: Task) -> dict[str, Any]:
    """The engine and the bare loop with the same network by turns of a second, in one process with one heap.

    On a machine that others use two processes scatter by 15 %; neighbouring seconds of one process do not.
    """
    from engine.lab import Lab
    from engine.memory.heap import keep_one_heap

    keep_one_heap()
    pixels, labels = _loaded(task)
    model = _network(task, as_torch=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    plain = _steps(task, model.train(), optimizer, _batches(pixels, labels))
    threads, pairs, form = torch.get_num_threads(), list[list[float]](), ""
    with tempfile.TemporaryDirectory() as home:
        control = RunControl()
        events = Lab(Folders(Path(home), data_folder(), Path(home))).train(task.spec, control).events()
        for event in events:
            if isinstance(event, RunStarted):
                form = f"{event.resolved.dtype} {event.resolved.memory_format} {event.resolved.num_threads} threads"
            if isinstance(event, StepsCompleted) and event.train_s >= _WARM_S:
                break
        ours_threads, began = torch.get_num_threads(), time.perf_counter()
        while time.perf_counter() - began < task.seconds:
            ours = _engine_second(events)
            torch.set_num_threads(threads)
            images, start = 0, time.perf_counter()
            while (theirs_s := time.perf_counter() - start) < 1:
                images += next(plain)
            torch.set_num_threads(ours_threads)
            if ours is not None:
                pairs.append([ours, images / theirs_s])
        control.stop()
        events.close()
    return {"pairs": pairs[2:], "form": form}  # the first two warm up


def _engine_second(events: Iterator[Any]) -> float | None:
    """Images per second of about a second of a run; None where an evaluation or a checkpoint fell into it."""
    from engine.events import EpochEnded, StepsCompleted

    images, start = 0, time.perf_counter()
    for event in events:
        if isinstance(event, EpochEnded):
            for later in events:  # to the first steps of the next epoch
                if isinstance(later, StepsCompleted):
                    return None
        if isinstance(event, StepsCompleted):
            images += len(event.losses) * BATCH
            if (seconds := time.perf_counter() - start) >= 1:
                return images / seconds
    return None


def evaluation(task: Task) -> dict[str, Any]:
    """reslab's evaluation of the test images, and a bare inference loop with the same batches, by turns."""
    from engine.data.loading import load_dataset
    from engine.memory.ledger import Ledger
    from engine.step.forward import evaluation_batch
    from engine.step.learner import build_learner
    from engine.training.evaluation import When, evaluate
    from engine.training.out_of_memory import Recovery

    spec = task.spec
    data = _exhausted(load_dataset(spec, Folders(Path("."), data_folder(), Path(".")), RunControl()))
    placement = _cpu()
    learner = build_learner(spec, data.shape, (data.mean, data.std), placement)
    at_once = evaluation_batch(spec.batch_size, data.shape.height, data.shape.width)
    recovery = Recovery(1, learner, Ledger())
    pixels, labels = learner.prepare(data.test.images), data.test.labels

    def ours() -> None:
        when, control = When(1, "test", "epoch", 1, 1), RunControl()
        _exhausted(evaluate(learner, data.test, 10, when, recovery, control))

    def plain() -> None:
        model = learner.model.eval()
        with torch.inference_mode():
            for start in range(0, len(labels), at_once):
                logits = model(pixels[start : start + at_once])
                logits.argmax(dim=1)
                F.cross_entropy(logits, labels[start : start + at_once])
        model.train()

    ours()
    plain()
    pairs: list[tuple[float, float]] = []
    while sum(one + other for one, other in pairs) < task.seconds:
        pairs.append((_seconds(ours), _seconds(plain)))
    return {"pairs": [[len(labels) / ours_s, len(labels) / plain_s] for ours_s, plain_s in pairs]}


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _Clock:
    """Counts images after a second to warm up, and says when the time is up."""

    def __init__(self, task: Task) -> None:
        self._task, self._images = task, 0
        self._first: float | None = None
        self._began: float | None = None
        self.found: dict[str, Any] = {}

    def over(self, num_images: int) -> bool:
        now = time.perf_counter()
        self._first = self._first or now
        if self._began is None:
            if now - self._first >= _WARM_S:
                if self._task.device != "cpu":
                    torch.cuda.synchronize()
                self._began = time.perf_counter()
            return False
        self._images += num_images
        over = now - self._began >= self._task.seconds
        if over and self._task.device != "cpu":
            torch.cuda.synchronize()  # what was queued has to be computed, too
            now = time.perf_counter()
        self.found = {"images_per_s": self._images / (now - self._began)}
        return over


def _timed(task: Task, steps: Iterable[int]) -> dict[str, Any]:
    clock = _Clock(task)
    for num_images in steps:
        if clock.over(num_images):
            break
    return clock.found


def _steps(task: Task, model: nn.Module, optimizer: Any, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[int]:
    for pixels, labels in batches:
        optimizer.zero_grad()
        with task.autocast:
            loss = F.cross_entropy(model(pixels), labels)
        torch.autograd.backward(loss)
        optimizer.step()
        yield len(labels)


def _network(task: Task, as_torch: bool = True) -> nn.Module:
    """reslab's network; `as_torch` without `engine.models.one_pixel`, which nobody's script has."""
    from engine.models.building import build_model
    from engine.models.one_pixel import OnePixelConv2d

    network = build_model(task.spec, task.shape)
    folded = [module for module in network.modules() if isinstance(module, OnePixelConv2d)]
    for module in folded if as_torch else ():
        module.__class__ = nn.Conv2d  # type: ignore[assignment]
    layout = torch.contiguous_format if task.device == "cpu" else torch.channels_last
    return network.to(task.device, memory_format=layout)  # type: ignore[call-overload,no-any-return]


def _cpu() -> Any:
    from engine.device import Placement

    return Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "benchmark")


def _exhausted(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _loaded(task: Task) -> tuple[Tensor, Tensor]:
    """All training images, resized and normalised."""
    from engine.data.batches import Preparation
    from engine.data.loading import load_dataset

    data = _exhausted(load_dataset(task.spec, Folders(Path("."), data_folder(), Path(".")), RunControl()))
    prepare = Preparation.build(data.mean, data.std, torch.device("cpu"))
    return prepare(data.train.images).to(task.device), data.train.labels.to(task.device)


def _loader(task: Task) -> Any:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    steps = [transforms.Resize(task.size)] if task.size != 28 else []
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])
    images = datasets.MNIST(str(data_folder()), train=True, transform=transform)
    return DataLoader(
        images,
        batch_size=BATCH,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
        pin_memory=task.device != "cpu",
    )


SIDES: dict[str, Callable[[Task], dict[str, Any]]] = {
    "reslab": reslab, "bare": bare, "torch": torchs, "script": script, "lightning": lightning, "fastai": fastai,
    "evaluation": evaluation, "synthetic": synthetic, "graph": graph, "turns": turns,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.sides")
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("dataset")
    parser.add_argument("model")
    parser.add_argument("size", type=int)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.side == "reslab":
        from engine.memory.heap import keep_one_heap

        keep_one_heap()  # as the command line does
    task = Task(given.dataset, given.model, given.size, given.seconds, given.dtype, given.device)
    print(json.dumps(SIDES[given.side](task)))


if __name__ == "__main__":
    main()
