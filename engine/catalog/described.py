"""Networks described in a TOML file: data, never run. Loads no torch.

    [[layers]]
    type = "Conv2d"
    out_channels = 16
    kernel_size = 3
    padding = 1

A file is a list of layers with torch's names and arguments, one after another. The kinds of layers are an allow-list;
every number has bounds. Arguments that follow from what a layer gets (`in_channels`, `num_features`, `in_features`) may
be left out. `out_features = "classes"` is the number of the dataset's classes. Shapes and parameters are computed by
arithmetic, so that an image size that does not fit is refused before torch is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from engine.catalog.layers import CLASSES, LAYERS, Shape
from engine.errors import SpecError
from engine.shape import DataShape
from engine.text import counted, memory_size, safe_text

T = TypeVar("T")
_MOST_BYTES = 2**20
_MOST_LAYERS = 1000
_MOST_PARAMETERS = 2_000_000_000
_MOST_VALUES = 2**31  # of one image after a layer


@dataclass(frozen=True, slots=True)
class Layer:
    """`arguments` as given; `number` counts from 1."""

    number: int
    kind: str
    arguments: Mapping[str, Any]

    def fault(self, text: str) -> SpecError:
        return SpecError(f"layer {self.number} ({self.kind}): {text}", "model")


@dataclass(frozen=True, slots=True)
class FittedLayer:
    """A layer for known images: every argument that torch needs, and its trainable values."""

    kind: str
    arguments: Mapping[str, Any]
    num_parameters: int


def read_layers(path: Path) -> tuple[Layer, ...]:
    """The layers of a file.

    Raises:
        SpecError: it cannot be read, or does not describe a network; the text names the layer and the argument.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    if not path.is_file():  # reading a pipe would never end
        raise _unreadable(path, "it is no file")
    return _read(path, found.st_mtime_ns, found.st_size)


def _unreadable(path: Path, why: str) -> SpecError:
    return SpecError(f"cannot read {path} ({why}); expected a TOML file of layers", "model")


@lru_cache(maxsize=32)
def _read(path: Path, modified_ns: int, size: int) -> tuple[Layer, ...]:
    if size > _MOST_BYTES:
        raise SpecError(
            f"{path} has {memory_size(size)}; expected at most {memory_size(_MOST_BYTES)} for a network", "model"
        )
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpecError(
            f"{path} is not TOML: {safe_text(error, 200)}; expected [[layers]] with types", "model"
        ) from None
    return _naming(path, lambda: _layers(values))


def _layers(values: Mapping[str, Any]) -> tuple[Layer, ...]:
    if unknown := sorted(values.keys() - {"layers"}):
        raise SpecError(f"unknown key {safe_text(unknown[0], 40)}; expected only layers", "model")
    items = values.get("layers")
    if not isinstance(items, list) or not items:
        raise SpecError('expected [[layers]], each with a type such as type = "Conv2d"', "model")
    if len(items) > _MOST_LAYERS:
        raise SpecError(f"it has {len(items):,} layers; expected at most {_MOST_LAYERS:,}", "model")
    return tuple(_layer(number, item) for number, item in enumerate(items, start=1))


def _layer(number: int, item: Any) -> Layer:
    kind = item.get("type") if isinstance(item, dict) else None
    if not isinstance(kind, str):
        raise SpecError(f'layer {number}: expected a type, such as type = "Conv2d"', "model")
    layer = Layer(number, safe_text(kind, 40), {name: value for name, value in item.items() if name != "type"})
    described = LAYERS.get(kind)
    if described is None:
        raise layer.fault(f"unknown type; expected one of {', '.join(LAYERS)}")
    if unknown := sorted(layer.arguments.keys() - described.arguments.keys()):
        known = ", ".join(described.arguments) or "no arguments"
        raise layer.fault(f"unknown argument {safe_text(unknown[0], 40)}; expected {known}")
    for name, argument in described.arguments.items():
        if name not in layer.arguments:
            if argument.is_required:
                raise layer.fault(f"{name} is missing; expected {argument.expected}")
        elif not argument.accepts(layer.arguments[name]):
            shown = safe_text(repr(layer.arguments[name]), 40)
            raise layer.fault(f"{name}: {shown} is not valid; expected {argument.expected}")
    return layer


def fit_layers(path: Path, shape: DataShape) -> tuple[FittedLayer, ...]:
    """The layers of the file at `path` for images of `shape`.

    Raises:
        SpecError: as `read_layers`; or a layer does not fit what the one before it returns.
    """
    layers = read_layers(path)
    return _naming(path, lambda: _fitted(layers, shape))


def _fitted(layers: tuple[Layer, ...], shape: DataShape) -> tuple[FittedLayer, ...]:
    at: Shape = (shape.channels, shape.height, shape.width)
    fitted, total = [], 0
    for layer in layers:
        described = LAYERS[layer.kind]
        given = {
            name: shape.num_classes if value == CLASSES else tuple(value) if isinstance(value, list) else value
            for name, value in layer.arguments.items()
        }
        try:
            arguments = described.inferred(at, given)
            after = described.out_shape(at, arguments)
        except ValueError as error:
            raise layer.fault(f"{error}, for images of {shape.height}×{shape.width} pixels") from None
        number = described.count(arguments)
        total += number
        if total > _MOST_PARAMETERS or _values(after) > _MOST_VALUES:
            raise layer.fault(
                f"the network would have more than {counted(_MOST_PARAMETERS, 'parameter')}, or layers as large"
            )
        fitted.append(FittedLayer(layer.kind, arguments, number))
        at = after
    if at != (shape.num_classes,):
        raise layers[-1].fault(
            f"the network ends with {_words(at)}; expected one value per class: a Linear with "
            f'out_features = "{CLASSES}", after a Flatten'
        )
    if not total:
        raise layers[-1].fault("the network has nothing to train; expected a layer such as Linear or Conv2d")
    return tuple(fitted)


def _values(shape: Shape) -> int:
    number = 1
    for size in shape:
        number *= size
    return number


def _words(shape: Shape) -> str:
    return "×".join(map(str, shape)) + " values per image"


def _naming(path: Path, work: Callable[[], T]) -> T:
    """The result of `work`, whose errors are about the file at `path`; they name it."""
    try:
        return work()
    except SpecError as error:
        raise SpecError(f"{path}: {error}", "model") from None
