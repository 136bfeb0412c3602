"""The layers that a described network may have: their arguments, what they infer, and the shape that they return.

Formulas are those of torch's documentation of each layer. Loads no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

CLASSES = "classes"
Shape = tuple[int, ...]
"""Of one image: (C, H, W), or (F,) after Flatten."""
Arguments = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument: its kind and bounds. A `pair` is one number for both directions, or a list of two."""

    kind: Literal["whole", "pair", "number", "switch", "choice"]
    low: float = 1
    high: float = 65_536
    choices: tuple[str | int, ...] = ()
    is_required: bool = False

    @property
    def expected(self) -> str:
        if self.kind == "switch":
            return "true or false"
        words = f"a {'whole ' if self.kind != 'number' else ''}number from {self.low:,.10g} to {self.high:,.10g}"
        options = [] if self.kind == "choice" else [words + (", or a list of two" if self.kind == "pair" else "")]
        return " or ".join([*options, *(f'"{one}"' if isinstance(one, str) else str(one) for one in self.choices)])

    def accepts(self, value: Any) -> bool:
        if isinstance(value, str | int) and not isinstance(value, bool) and value in self.choices:
            return True
        match self.kind:
            case "switch":
                return isinstance(value, bool)
            case "choice":
                return False
            case "pair":
                two = isinstance(value, list) and len(value) == 2
                return all(map(self._is_number, value if two else [value]))
        return self._is_number(value)

    def _is_number(self, value: Any) -> bool:
        kinds = (int, float) if self.kind == "number" else (int,)
        return type(value) in kinds and math.isfinite(value) and self.low <= value <= self.high


def _keep(at: Shape, given: Arguments) -> Arguments:
    return given


def _same(at: Shape, arguments: Arguments) -> Shape:
    return at


def _nothing(arguments: Arguments) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class LayerKind:
    """`inferred` adds the arguments that follow from the shape before the layer, `out_shape` is the shape after it,
    `count` its trainable values. The first two raise ValueError if the shape does not fit.
    """

    arguments: Mapping[str, Argument] = field(default_factory=dict)
    inferred: Callable[[Shape, Arguments], Arguments] = _keep
    out_shape: Callable[[Shape, Arguments], Shape] = _same
    count: Callable[[Arguments], int] = _nothing


def _images(at: Shape) -> Shape:
    if len(at) != 3:
        raise ValueError("it needs images, and gets a flat list of values; place it before Flatten")
    return at


def _with(name: str, value: int, given: Arguments) -> Arguments:
    """`given` with the inferred argument. Raises ValueError if it states another value."""
    if given.get(name, value) != value:
        raise ValueError(f"{name} is {given[name]}, but it gets {value}; leave {name} out")
    return {**given, name: value}


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _windows(at: Shape, arguments: Arguments, default_stride: Any) -> tuple[int, int]:
    """Height and width after a convolution or a pool. A pool's padding is at most half of its kernel."""
    kernel, padding = _pair(arguments["kernel_size"]), arguments.get("padding", 0)
    stride, dilation = _pair(arguments.get("stride", default_stride)), _pair(arguments.get("dilation", 1))
    if padding == "same":
        if stride != (1, 1):
            raise ValueError('padding "same" needs stride 1')
        return at[1], at[2]
    padding = (0, 0) if padding == "valid" else _pair(padding)
    found = []
    for axis in range(2):
        size, reach = at[1 + axis] + 2 * padding[axis], dilation[axis] * (kernel[axis] - 1) + 1
        steps = (size - reach) / stride[axis]
        number = (math.ceil(steps) if arguments.get("ceil_mode") else math.floor(steps)) + 1
        # As torch: the last window must start inside the image or its left padding.
        if arguments.get("ceil_mode") and (number - 1) * stride[axis] >= at[1 + axis] + padding[axis]:
            number -= 1
        if number < 1:
            raise ValueError(f"kernel_size: it reaches over {reach} pixels and gets {at[1]}×{at[2]}")
        found.append(number)
    return found[0], found[1]


def _conv_inferred(at: Shape, given: Arguments) -> Arguments:
    channels, groups = _images(at)[0], given.get("groups", 1)
    if channels % groups or given["out_channels"] % groups:
        raise ValueError(f"groups: {groups} does not divide {channels} channels in and {given['out_channels']} out")
    return _with("in_channels", channels, given)


def _conv_shape(at: Shape, arguments: Arguments) -> Shape:
    return (arguments["out_channels"], *_windows(at, arguments, 1))


def _conv_count(arguments: Arguments) -> int:
    height, width = _pair(arguments["kernel_size"])
    out = int(arguments["out_channels"])
    weights = out * (arguments["in_channels"] // arguments.get("groups", 1)) * height * width
    return int(weights) + (out if arguments.get("bias", True) else 0)


def _pool_inferred(at: Shape, given: Arguments) -> Arguments:
    _images(at)
    kernel, padding = _pair(given["kernel_size"]), _pair(given.get("padding", 0))
    if any(2 * beside > side for beside, side in zip(padding, kernel, strict=True)):
        raise ValueError("padding: expected at most half of kernel_size")
    return given


def _pool_shape(at: Shape, arguments: Arguments) -> Shape:
    return (at[0], *_windows(at, arguments, arguments["kernel_size"]))


def _adaptive_shape(at: Shape, arguments: Arguments) -> Shape:
    return (_images(at)[0], *_pair(arguments["output_size"]))


def _norm_2d(at: Shape, given: Arguments) -> Arguments:
    return _with("num_features", _images(at)[0], given)


def _norm_1d(at: Shape, given: Arguments) -> Arguments:
    if len(at) != 1:
        raise ValueError("it needs a flat list of values; place it after Flatten, or use BatchNorm2d")
    return _with("num_features", at[0], given)


def _group_norm(at: Shape, given: Arguments) -> Arguments:
    if at[0] % given["num_groups"]:
        raise ValueError(f"num_groups: {given['num_groups']} does not divide {at[0]} channels")
    return _with("num_channels", at[0], given)


def _norm_count(arguments: Arguments) -> int:
    channels = arguments.get("num_features", arguments.get("num_channels"))
    return 2 * int(channels) if channels and arguments.get("affine", True) else 0


def _linear(at: Shape, given: Arguments) -> Arguments:
    if len(at) != 1:
        raise ValueError(f"it gets images of {at[0]}×{at[1]}×{at[2]}; place a Flatten before it")
    return _with("in_features", at[0], given)


def _linear_shape(at: Shape, arguments: Arguments) -> Shape:
    return (arguments["out_features"],)


def _linear_count(arguments: Arguments) -> int:
    return int(arguments["out_features"]) * (int(arguments["in_features"]) + bool(arguments.get("bias", True)))


def _flat(at: Shape, arguments: Arguments) -> Shape:
    return (math.prod(at),)


_WIDTH, _NEEDED = Argument("whole"), Argument("whole", is_required=True)
_OUT = Argument("whole", choices=(CLASSES,), is_required=True)
_KERNEL, _STRIDE = Argument("pair", high=255, is_required=True), Argument("pair", high=255)
_PADDING, _DILATION = Argument("pair", 0, 255), Argument("pair", high=255)
_SWITCH, _SHARE = Argument("switch"), Argument("number", 0, 0.99)
_EPS, _SLOPE = Argument("number", 1e-12, 1), Argument("number", 0, 100)
_NORM = {"eps": _EPS, "momentum": Argument("number", 0, 1), "affine": _SWITCH, "track_running_stats": _SWITCH}
_AFTER = {"padding": _PADDING, "ceil_mode": _SWITCH}
_OUTPUT = {"output_size": Argument("pair", high=1024, is_required=True)}
_CONV = {
    "in_channels": _WIDTH, "out_channels": _OUT, "kernel_size": _KERNEL, "stride": _STRIDE,
    "padding": Argument("pair", 0, 255, ("same", "valid")), "dilation": _DILATION, "groups": _WIDTH, "bias": _SWITCH,
}  # fmt: skip
_DROPOUT = LayerKind({"p": _SHARE})

LAYERS: Mapping[str, LayerKind] = {
    "Conv2d": LayerKind(_CONV, _conv_inferred, _conv_shape, _conv_count),
    "Linear": LayerKind(
        {"in_features": Argument("whole", high=2**24), "out_features": _OUT, "bias": _SWITCH},
        _linear, _linear_shape, _linear_count,
    ),
    "BatchNorm2d": LayerKind({"num_features": _WIDTH, **_NORM}, _norm_2d, count=_norm_count),
    "BatchNorm1d": LayerKind({"num_features": Argument("whole", high=2**24), **_NORM}, _norm_1d, count=_norm_count),
    "GroupNorm": LayerKind(
        {"num_groups": _NEEDED, "num_channels": _WIDTH, "eps": _EPS, "affine": _SWITCH}, _group_norm, count=_norm_count
    ),
    "ReLU": LayerKind(),
    "ReLU6": LayerKind(),
    "LeakyReLU": LayerKind({"negative_slope": _SLOPE}),
    "ELU": LayerKind({"alpha": _SLOPE}),
    "GELU": LayerKind({"approximate": Argument("choice", choices=("none", "tanh"))}),
    "SiLU": LayerKind(),
    "Mish": LayerKind(),
    "Hardswish": LayerKind(),
    "Sigmoid": LayerKind(),
    "Tanh": LayerKind(),
    "MaxPool2d": LayerKind(
        {"kernel_size": _KERNEL, "stride": _STRIDE, "dilation": _DILATION, **_AFTER}, _pool_inferred, _pool_shape
    ),
    "AvgPool2d": LayerKind(
        {"kernel_size": _KERNEL, "stride": _STRIDE, **_AFTER, "count_include_pad": _SWITCH}, _pool_inferred, _pool_shape
    ),
    "AdaptiveAvgPool2d": LayerKind(_OUTPUT, out_shape=_adaptive_shape),
    "AdaptiveMaxPool2d": LayerKind(_OUTPUT, out_shape=_adaptive_shape),
    "Flatten": LayerKind(
        {"start_dim": Argument("choice", choices=(1,)), "end_dim": Argument("choice", choices=(-1,))}, out_shape=_flat
    ),
    "Dropout": _DROPOUT,
    "Dropout2d": LayerKind({"p": _SHARE}, lambda at, given: (_images(at), given)[1]),
    "Identity": LayerKind(),
}  # fmt: skip
