"""How much memory a run will take, before it takes any: its own step, made with tensors that have no contents.

A mode of torch's hands out tensors with sizes and no memory (`FakeTensorMode`); another, here, notes when each storage
is born and when it dies. The peak of their sum is the peak of the run, but for what happens inside an operation: the
workspaces of convolutions, and on a GPU the driver's context. Those are estimated, and calibrated by earlier runs.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from engine.device import Placement
from engine.errors import ForecastError, ReslabError
from engine.memory.calibration import Calibration
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.training.evaluation import evaluation_batch, forward
from engine.training.gradients import Gradients
from engine.training.learner import Learner, build_learner
from engine.training.recompute import recompute_activations
from engine.training.recovery import EVALUATED_PER_PART

_log = logging.getLogger("reslab")
BYTES_FIELDS = (
    "peak_bytes", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "dataset_bytes",
    "workspace_bytes", "context_bytes",
)  # fmt: skip
_LISTS = (
    torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step,
    torch.ops.aten.linspace.default,
)  # fmt: skip
_READS = (torch.ops.aten._local_scalar_dense.default,)
# What does not change the memory of a step; the other settings are the key of the cache.
_IRRELEVANT = {
    "dataset": "digits", "epochs": 1, "learning_rate": 0.1, "weight_decay": 0.0, "schedule": "constant",
    "warmup_epochs": 0.0, "label_smoothing": 0.0, "val_share": 0.0, "test_share": 0.2, "split_seed": 0, "seed": 0,
    "deterministic": False, "image_size": None, "on_oom": "micro-batch", "device": "auto",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes at the moment of the peak, by what holds them; `peak_bytes` is their sum.

    `parameters_bytes` counts the weights and the batch-norm statistics with their copy. `image_bytes` is what each
    image of a batch adds. `context_bytes` lies outside torch's allocator. `during` says what the peak is reached in.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    dataset_bytes: int
    workspace_bytes: int
    context_bytes: int
    image_bytes: int
    batch_size: int
    during: str

    @property
    def allocator_bytes(self) -> int:
        """The peak of torch's allocator."""
        return self.peak_bytes - self.context_bytes

    @property
    def peak_bytes(self) -> int:
        return (
            self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes
            + self.dataset_bytes + self.workspace_bytes + self.context_bytes
        )  # fmt: skip


def forecast(
    spec: RunSpec, shape: DataShape, dataset_bytes: int, placement: Placement, calibration: Calibration,
    micro_batch: int | None = None, recompute: bool = False,
) -> Forecast:  # fmt: skip
    """The forecast for `spec` on images of `shape`, with a dataset of this size resident on the device.

    Raises:
        ModelError: the network cannot take such images.
        ForecastError: torch did not let itself be asked; the log has the rest.
    """
    changes = {**_IRRELEVANT, "weights": "random", "freeze": "none", "backbone_rate": 1.0}
    frozen = spec.freeze == "backbone"
    at_once = evaluation_batch(spec.batch_size, shape)
    if micro_batch is not None:
        at_once = min(at_once, EVALUATED_PER_PART * micro_batch)
    try:
        found = _of_step(spec.replace(**changes), shape, placement.dtype, at_once, frozen, recompute, micro_batch)
    except ReslabError:
        raise
    except Exception as error:  # the forecast stands on what torch does not promise
        _log.warning("no memory forecast for %s", spec.model, exc_info=True)
        raise ForecastError(f"no memory forecast for {spec.model}: {type(error).__name__}, as the log tells") from None
    return replace(
        found,
        dataset_bytes=dataset_bytes,
        workspace_bytes=max(found.workspace_bytes + calibration.workspace_bytes, 0),
        context_bytes=calibration.context_bytes,
    )


def resident_bytes(num_images: int, shape: DataShape) -> int:
    """What a dataset of uint8 images and int64 labels takes on the device."""
    return num_images * (shape.channels * shape.height * shape.width + 8)


@lru_cache(maxsize=256)
def _of_step(
    spec: RunSpec,
    shape: DataShape,
    dtype: torch.dtype,
    eval_batch: int,
    frozen: bool,
    recompute: bool,
    micro_batch: int | None,
) -> Forecast:
    """A batch of an evaluation, and a training step whose gradients are measured."""
    # Sizes are the same on every device, and here no device is needed.
    placement = Placement(torch.device("cpu"), dtype, torch.contiguous_format, "forecast")
    storages = _Storages()
    with FakeTensorMode(allow_non_fake_inputs=True), storages:
        channels = (0.5,) * shape.channels
        learner = build_learner(spec, shape, (channels, channels), placement, seeded=False, frozen=frozen)
        if recompute:
            recompute_activations(learner.model, draws=False)
        storages.moment = "evaluation"
        with torch.no_grad():
            forward(learner.model.eval(), learner.prepare(_images(eval_batch, shape)), _labels(eval_batch), placement)
        learner.model.train()
        # One step is as good as many: the optimizer's state is there before it, and gradients go with each step.
        storages.moment = "forward and backward"
        learner.compute_gradients((_images(spec.batch_size, shape), _labels(spec.batch_size)), 1, 0, micro_batch)
        storages.moment = "update"
        Gradients(0, learner.model).around(learner.optimizer.step, 1)
        return storages.forecast(learner, spec.batch_size)


def _images(number: int, shape: DataShape) -> Tensor:
    return torch.empty(number, shape.channels, shape.height, shape.width, dtype=torch.uint8)


def _labels(number: int) -> Tensor:
    return torch.zeros(number, dtype=torch.int64)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every storage: its bytes, and which of them live at the moment of the peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moment = "building"
        self._live: dict[int, tuple[int, int, weakref.ref[Any]]] = {}  # by id: number, bytes
        self._num_seen = self._sum = self._peak = 0
        self._at_peak: dict[int, int] = {}
        self._during = self.moment

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.moment == "building" and (small := self._small(func, args, kwargs or {})) is not None:
            return small
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    @staticmethod
    def _small(func: Any, args: Any, kwargs: Any) -> Any:
        """What a network works out while it is built, such as RegNet's widths, needs contents: that is done for real.

        Where a first weight is asked for its value, as a rule for drawing it may do, any value is good enough.
        """
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return tensors[0].dtype.is_floating_point * 0.0 if func in _READS else None
        if tensors or func in _LISTS:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return None

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = id(storage), storage.nbytes()  # torch keeps the Python object as long as the storage
        if key in self._live:
            return

        def died(_: object) -> None:
            self._sum -= num_bytes
            del self._live[key]

        self._live[key] = (self._num_seen, num_bytes, weakref.ref(storage, died))
        self._num_seen += 1
        self._sum += num_bytes
        if self._sum > self._peak and self.moment != "building":
            self._peak, self._during = self._sum, self.moment
            self._at_peak = {number: size for number, size, _ in self._live.values()}

    def forecast(self, learner: Learner, batch_size: int) -> Forecast:
        """What lived at the peak, by what it is; call it while the learner and its gradients are still there."""
        model = learner.model
        state = [value for values in learner.optimizer.state.values() for value in values.values()]
        parameters = self._of([*model.parameters(), *model.buffers(), *learner.guard.copies])
        gradients = self._of([values.grad for values in model.parameters() if values.grad is not None])
        optimizer = self._of([value for value in state if isinstance(value, Tensor)])
        activations = self._peak - parameters - gradients - optimizer
        return Forecast(
            parameters_bytes=parameters,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            activations_bytes=activations,
            dataset_bytes=0,
            workspace_bytes=0,
            context_bytes=0,
            image_bytes=activations // batch_size if self._during != "update" else 0,
            batch_size=batch_size,
            during=self._during,
        )

    def _of(self, tensors: Iterable[Tensor]) -> int:
        keys = {id(tensor.untyped_storage()) for tensor in tensors}
        return sum(self._at_peak.get(self._live[key][0], 0) for key in keys if key in self._live)
