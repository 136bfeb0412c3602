"""How much memory a run will need, before it uses any: its own step, run on tensors without contents.

One mode of torch's creates tensors with sizes but no memory (`FakeTensorMode`); another one, defined here, records when
each storage is allocated and freed. The peak of their sum is the peak of the run, except for memory inside operations.
On a processor the workspaces of convolutions are measured (`engine.forecast.workspace`); on a GPU they and the driver's
context are calibrated by earlier runs.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from engine.device import Placement
from engine.errors import ForecastError, ReslabError
from engine.forecast.shapes import COMPOSITES, RETURNS
from engine.forecast.timeline import Forecast, Held, Timeline
from engine.forecast.workspace import CONVOLUTIONS, Convolution
from engine.memory.calibration import Calibration
from engine.models.whole import fingerprint
from engine.own_code import OwnModelError
from engine.shape import DataShape
from engine.spec import RunSpec, affecting, settings_of
from engine.step.forward import EVALUATED_PER_PART, evaluation_batch, forward
from engine.step.gradients import Gradients
from engine.step.learner import BuildOptions, Learner, build_learner, micro_batch_bounds
from engine.step.recompute import recompute_activations

_log = logging.getLogger("reslab")
_LISTS = (
    torch.ops.aten.arange.default, torch.ops.aten.arange.start, torch.ops.aten.arange.start_step,
    torch.ops.aten.linspace.default,
)  # fmt: skip
_READS = (torch.ops.aten._local_scalar_dense.default,)


@dataclass(frozen=True, slots=True)
class Step:
    """A training step to forecast: `spec` on images of `shape`, `dataset_bytes` resident on the device, and the
    calibration from earlier runs.
    """

    spec: RunSpec
    shape: DataShape
    placement: Placement
    dataset_bytes: int = 0
    calibration: Calibration = field(default_factory=Calibration)

    def of_batch(self, batch_size: int) -> Step:
        return replace(self, spec=self.spec.replace(batch_size=batch_size))


@dataclass(frozen=True, slots=True)
class _ForecastKey:
    """Everything that the memory of a step depends on, and nothing else: the cache key of forecasts."""

    spec: RunSpec
    shape: DataShape
    device_type: str
    dtype: torch.dtype
    memory_format: torch.memory_format
    eval_batch: int
    frozen: bool
    recompute: bool
    micro_batch: int | None
    trains: bool
    network: str = ""


def forecast(step: Step, micro_batch: int | None = None, recompute: bool = False) -> Forecast:
    """The forecast of a step, in parts of `micro_batch` images if given.

    Raises:
        ModelError: the network does not accept such images.
        ForecastError: torch could not run the step this way; details are in the log.
    """
    spec, placement = step.spec, step.placement
    at_once = evaluation_batch(spec.batch_size, step.shape.height, step.shape.width)
    if micro_batch is not None:
        at_once = min(at_once, EVALUATED_PER_PART * micro_batch)
    try:
        found = forecast_step(
            _ForecastKey(
                spec=memory_key(spec), shape=step.shape, device_type=placement.device.type, dtype=placement.dtype,
                memory_format=placement.memory_format, eval_batch=at_once, frozen=spec.freeze == "backbone",
                recompute=recompute, micro_batch=micro_batch, trains=spec.epochs > 0, network=fingerprint(spec.model),
            )
        )  # fmt: skip
    except OwnModelError:  # with tensors that have no contents; with real ones it may work
        raise ForecastError(f"no memory forecast for {spec.model}: it cannot run without values") from None
    except ReslabError:
        raise
    except Exception as error:  # the forecast depends on private parts of torch
        _log.warning("no memory forecast for %s", spec.model, exc_info=True)
        raise ForecastError(
            f"no memory forecast for {spec.model}: {type(error).__name__}, details in reslab.log"
        ) from None
    return replace(
        found,
        dataset_bytes=step.dataset_bytes,
        workspace_bytes=max(found.workspace_bytes + step.calibration.workspace_bytes, 0),
        context_bytes=step.calibration.context_bytes,
    )


def memory_key(spec: RunSpec) -> RunSpec:
    """`spec` with only what affects the memory of a step. Frozen layers are part of the key instead: here they would
    require trained weights.
    """
    named = affecting("memory")
    changes = {name: item.default for name, item in settings_of(RunSpec).items() if name not in named}
    return spec.replace(**{**changes, "dataset": "digits", "freeze": "none"})


def resident_bytes(num_images: int, shape: DataShape) -> int:
    """Size of a dataset on the device, with uint8 images and int64 labels."""
    return num_images * (shape.channels * shape.height * shape.width + 8)


@lru_cache(maxsize=256)
def forecast_step(key: _ForecastKey) -> Forecast:
    """One evaluation batch, and, if the run `trains`, one training step whose gradients are measured."""
    spec, shape = key.spec if key.trains else key.spec.replace(epochs=0), key.shape
    # Sizes are the same on every device, and none is needed here.
    placement = Placement(torch.device("cpu"), key.dtype, key.memory_format, "forecast")
    storages = _Storages()
    with FakeTensorMode(allow_non_fake_inputs=True), storages:
        channels = (0.5,) * shape.channels
        options = BuildOptions(seeded=False, frozen=key.frozen)
        learner = build_learner(spec, shape, (channels, channels), placement, options)
        if key.recompute:
            recompute_activations(learner.model, uses_rng=False)
        storages.timeline.moment = "evaluation"
        number = key.eval_batch
        with torch.no_grad():
            forward(learner.model.eval(), learner.prepare(_images(number, shape)), _labels(number), placement)
        if key.trains:
            _train_one_step(learner, shape, key.micro_batch, storages.timeline)
        held = storages.held_by(learner)
    return storages.timeline.forecast(held, spec.batch_size, inside=key.device_type == "cpu")


def _train_one_step(learner: Learner, shape: DataShape, micro_batch: int | None, timeline: Timeline) -> None:
    """One is enough: the optimizer's state exists before it, and gradients are freed with each step."""
    learner.model.train()
    batch_size = learner.spec.batch_size
    timeline.moment = "forward and backward"
    batch = _images(batch_size, shape), _labels(batch_size)
    first = _of_two_parts(batch_size, micro_batch)
    learner.compute_gradients((batch[0][:first], batch[1][:first]), 1, 0, micro_batch)
    timeline.moment = "update"
    Gradients(0, learner.model).around(learner.optimizer.step, 1)


def _of_two_parts(batch_size: int, micro_batch: int | None) -> int:
    """Images in the first two parts of a batch: later parts need the same memory as the second."""
    if micro_batch is None:
        return batch_size
    *_, (_, stop) = islice(micro_batch_bounds(batch_size, micro_batch), 2)
    return stop


def _images(number: int, shape: DataShape) -> Tensor:
    return torch.empty(number, shape.channels, shape.height, shape.width, dtype=torch.uint8)


def _labels(number: int) -> Tensor:
    return torch.zeros(number, dtype=torch.int64)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every storage, with its bytes, and every convolution."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeline = Timeline()
        self._emptied = WeakTensorKeyDictionary()
        self._numbers: dict[int, tuple[int, weakref.ref[Any]]] = {}  # live storages, by id

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here; torch's guard against it would wrap every operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.timeline.moment == "building" and (small := self._small(func, args, kwargs or {})) is not None:
            return small
        if func in COMPOSITES:
            with self:
                return func.decompose(*args, **(kwargs or {}))
        args, kwargs = tree_map_only(Tensor, self._without_contents, (args, kwargs or {}))
        out = RETURNS.get(func, func)(*args, **kwargs)
        if func in CONVOLUTIONS:
            self.timeline.convolve(Convolution.of(func, args), len(args[0]))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return out

    @staticmethod
    def _small(func: Any, args: Any, kwargs: Any) -> Any:
        """Values that a network computes while it is built, such as RegNet's widths, need contents: compute them for
        real.

        If an initialisation rule reads a weight's value, any value will do.
        """
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(isinstance(tensor, FakeTensor) for tensor in tensors):
            return tensors[0].dtype.is_floating_point * 0.0 if func in _READS else None
        if tensors or func in _LISTS:
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        return None

    def _without_contents(self, tensor: Tensor) -> Tensor:
        """An empty stand-in for a tensor that was made for real while the network was built. torch would convert it
        too, but load its compiler for that. It is an ordinary tensor even if an evaluation needs it first: views of one
        made in inference mode are not allowed here.
        """
        if isinstance(tensor, FakeTensor):
            return tensor
        if tensor not in self._emptied:
            with torch.inference_mode(False):
                self._emptied[tensor] = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        empty: Tensor = self._emptied[tensor]
        return empty

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, num_bytes = id(storage), storage.nbytes()  # the Python object lives as long as the storage
        if key in self._numbers:
            return
        number = self.timeline.allocate(num_bytes)

        def freed(_: object) -> None:
            del self._numbers[key]
            self.timeline.free(number, num_bytes)

        self._numbers[key] = number, weakref.ref(storage, freed)

    def held_by(self, learner: Learner) -> Held:
        """Classify the storages; call it while the learner and its gradients are alive."""
        model = learner.model
        state = [value for values in learner.optimizer.state.values() for value in values.values()]
        return Held(
            parameters=self._of([*model.parameters(), *model.buffers(), *learner.guard.copies]),
            gradients=self._of([values.grad for values in model.parameters() if values.grad is not None]),
            optimizer=self._of([value for value in state if isinstance(value, Tensor)]),
        )

    def _of(self, tensors: Iterable[Tensor]) -> frozenset[int]:
        keys = {id(tensor.untyped_storage()) for tensor in tensors}
        return frozenset(self._numbers[key][0] for key in keys if key in self._numbers)
