"""Match the state dict of somebody else's network to one of ours: by name, or by order and shape, never by luck.

Names count first: without a prefix that wrappers have left, and with the last layer under any name. If some still
differ, layers are matched in the order in which both networks register them. Then everything must fit one to one:
kinds, shapes, blocks. A pre-activation ResNet, for example, has the very sequence of shapes of a ResNet,
but its blocks begin elsewhere. Otherwise the names must cover nearly all of both networks, and the rest is reported.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from engine.models.state import COUNTS
from engine.text import safe_text

LEAST_MATCHED = 0.9  # of the values of both networks, without the first and the last layer
_WRAPPERS = (
    "module",
    "_orig_mod",
    "model",
    "backbone",
    "net",
    "network",
    "encoder",
    "ema",
    "teacher",
    "student",
    "trunk",
)
_DEEPEST = 16  # dots in a name that may end a prefix
_MOST_SHOWN = 5
_MOST_COMPARED = 2_000  # names whose likeness is computed
_NAME = 60  # characters of a name that are shown


def layer_of(name: str) -> str:
    """The layer of a tensor."""
    return name.rpartition(".")[0]


@dataclass(frozen=True, slots=True)
class Target:
    """What a network wants: its tensors by name, and its first and last layer, whose channels and classes may differ
    (None: it has no such layer).

    `small_first`: the first layer's filters may also be 3×3.
    """

    tensors: Mapping[str, Tensor]
    first: str | None
    last: str | None
    small_first: bool = False

    def fits(self, name: str, value: Tensor) -> bool:
        """Whether `value` can be the tensor `name`."""
        wanted = self.tensors[name]
        if value.is_floating_point() != wanted.is_floating_point() or value.dim() != wanted.dim():
            return False
        match name:
            case _ if name == f"{self.first}.weight":
                sides = (wanted.shape[2:], (3, 3)) if self.small_first else (wanted.shape[2:],)
                return value.shape[0] == wanted.shape[0] and value.shape[2:] in sides
            case _ if layer_of(name) == self.last:
                return value.shape[1:] == wanted.shape[1:]
        return value.shape == wanted.shape

    def is_counted(self, name: str) -> bool:
        """Whether it counts towards the share that is matched."""
        return layer_of(name) not in (self.first, self.last) and self.tensors[name].is_floating_point()


@dataclass(frozen=True, slots=True)
class Matched:
    """Tensors under the network's own names.

    `prefix` was removed from theirs, `last` is their name of the last layer if it differs, `by_order` says that names
    did not count. `missing` are the network's tensors that they lack, `left_out` theirs that the network lacks,
    `outside` the number of those without the prefix. `share` is the part of the larger network that matched.
    """

    state: dict[str, Tensor]
    prefix: str = ""
    last: str = ""
    by_order: bool = False
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    outside: int = 0
    share: float = 1.0

    @property
    def is_complete(self) -> bool:
        return not self.missing and not self.left_out

    @property
    def names(self) -> list[str]:
        """The network's tensors that were found, without batch-norm's counts."""
        return [name for name in self.state if not name.endswith(COUNTS)]

    def num_of(self, layer: str) -> int:
        """How many tensors of this layer were found."""
        return sum(layer_of(name) == layer for name in self.names)


def match(state: Mapping[str, Tensor], target: Target, is_ordered: bool) -> Matched:
    """The best match of `state`; by order only if `is_ordered`. Its `share` may be too small to be used."""
    by_name = _match_names(state, target)
    if by_name.is_complete or not is_ordered:
        return by_name
    return _match_order(state, target) or by_name


def mismatches(state: Mapping[str, Tensor], target: Target, matched: Matched) -> list[str]:
    """The most telling differences, in words, safe to print: first tensors of the same name and another shape."""
    left = {name.removeprefix(matched.prefix): value for name, value in state.items()}
    left = {name: value for name, value in left.items() if name not in matched.state}
    wrong = [name for name in matched.missing if name in left]
    rest = [name for name in matched.missing if name not in left]
    texts = [f"{name} is {_shape(left[name])} instead of {_shape(target.tensors[name])}" for name in wrong]
    theirs = [name for name in left if name not in wrong][:_MOST_COMPARED]
    for name in rest[:_MOST_SHOWN]:
        alike = [other[:_NAME] for other in theirs if left[other].shape == target.tensors[name].shape]
        near = difflib.get_close_matches(name, alike, n=1, cutoff=0)
        texts.append(f"{name} is missing" + (f" (of its shape: {safe_text(near[0])})" if near else ""))
    unknown = [f"{safe_text(name, _NAME)} is unknown" for name in left if name not in wrong]
    return [*texts, *unknown][:_MOST_SHOWN]


def _shape(value: Tensor) -> str:
    return f"({', '.join(map(str, value.shape))})"


def _match_names(state: Mapping[str, Tensor], target: Target) -> Matched:
    prefix = _best_prefix(state, target)
    inside = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    outside = {name: value for name, value in state.items() if not name.startswith(prefix)}
    found = {name: value for name, value in inside.items() if name in target.tensors and target.fits(name, value)}
    last = ""
    if f"{target.last}.weight" not in found:
        left = {name: value for name, value in inside.items() if name not in found}
        last = _last_layer(left, target) or _last_layer(outside, target)
    for name, value in {**outside, **inside}.items() if last else ():
        if layer_of(name) == last:
            found[f"{target.last}.{name.rpartition('.')[2]}"] = value
            inside.pop(name, None)
            outside.pop(name, None)
    left_out = tuple(name for name in inside if name not in found and not name.endswith(COUNTS))
    return Matched(
        found, prefix, last, missing=_missing(found, target), left_out=left_out, outside=len(outside),
        share=_share(found, inside, left_out, target),
    )  # fmt: skip


def _missing(found: Mapping[str, Tensor], target: Target) -> tuple[str, ...]:
    """The network's tensors that are not `found`; a last layer that is not there at all is no mismatch."""
    names = [name for name in target.tensors if name not in found and not name.endswith(COUNTS)]
    has_last = f"{target.last}.weight" in found
    return tuple(name for name in names if has_last or layer_of(name) != target.last)


def _share(found: Mapping[str, Tensor], inside: Mapping[str, Tensor], left_out: Iterable[str], target: Target) -> float:
    """The matched part of the network with more values: a small one may fit into the first half of a large one."""
    matched = sum(value.numel() for name, value in found.items() if target.is_counted(name))
    ours = sum(value.numel() for name, value in target.tensors.items() if target.is_counted(name))
    theirs = matched + sum(inside[name].numel() for name in left_out if inside[name].is_floating_point())
    return matched / max(ours, theirs, 1)


def _best_prefix(state: Mapping[str, Tensor], target: Target) -> str:
    """What to remove from their names so that most values fit, of the layers whose shape says something; the first one
    if several do equally well.
    """
    values: Counter[str] = Counter()
    for name, value in state.items():
        parts = name.split(".")
        for number in range(min(len(parts), _DEEPEST)):
            rest = ".".join(parts[number:])
            if rest in target.tensors and target.is_counted(rest) and target.fits(rest, value):
                values[name.removesuffix(rest)] += value.numel()
    return max(values, key=lambda prefix: values[prefix]) if values else ""


def _last_layer(left: Mapping[str, Tensor], target: Target) -> str:
    """The only layer in `left` that can be the last one, whatever its name; empty if there are none or several.

    A layer inside something that has other layers left, such as the head of a self-supervised training, is none.
    """
    layers: dict[str, set[str]] = {}
    for name in left:
        layer, _, leaf = name.rpartition(".")
        layers.setdefault(layer, set()).add(leaf)
    parents = Counter(layer.rpartition(".")[0] for layer in layers)
    wanted = {name.rpartition(".")[2] for name in target.tensors if layer_of(name) == target.last}
    able = [
        layer
        for layer, leaves in layers.items()
        if leaves == wanted and target.fits(f"{target.last}.weight", left[f"{layer}.weight".removeprefix(".")])
        if "." not in layer or parents[layer.rpartition(".")[0]] == 1
    ]
    return able[0] if len(able) == 1 else ""


Layers = dict[str, dict[str, Tensor]]


def _match_order(state: Mapping[str, Tensor], target: Target) -> Matched | None:
    """Layer by layer in the order of both; None unless each of them fits."""
    prefix = _wrapper(state)
    ours = _layers(target.tensors)
    theirs = _layers({name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)})
    if len(theirs) == len(ours) - 1 and next(reversed(ours)) == target.last:
        del ours[target.last]
    if len(theirs) != len(ours):
        return None
    found: dict[str, Tensor] = {}
    for (their_name, their_layer), (our_name, our_layer) in zip(theirs.items(), ours.items(), strict=True):
        fits = _fitting(target, our_name)
        if their_layer.keys() != our_layer.keys() or not all(map(fits, their_layer, their_layer.values())):
            return None
        known = ours.get(their_name)  # a layer that both have under one name must be the same one
        if their_name != our_name and known is not None and _same_shapes(their_layer, known):
            return None
        found |= {_join(our_name, leaf): value for leaf, value in their_layer.items()}
    if _cross(_groups(theirs), _groups(ours)):
        return None
    outside = sum(not name.startswith(prefix) for name in state)
    return Matched(found, prefix, by_order=True, outside=outside)


def _fitting(target: Target, layer: str) -> Callable[[str, Tensor], bool]:
    return lambda leaf, value: target.fits(_join(layer, leaf), value)


def _same_shapes(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(value.shape == other[leaf].shape for leaf, value in one.items())


def _join(layer: str, leaf: str) -> str:
    return f"{layer}.{leaf}" if layer else leaf


def _layers(tensors: Mapping[str, Tensor]) -> Layers:
    """Tensors by layer, in their order, without batch-norm's counts."""
    layers: Layers = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != COUNTS:
            layers.setdefault(layer, {})[leaf] = value
    return layers


def _wrapper(state: Mapping[str, Tensor]) -> str:
    """The prefix of usual wrappers' names, several on top of each other, that most values have."""
    prefix, total = "", sum(value.numel() for value in state.values())
    while True:
        sizes: Counter[str] = Counter()
        for name, value in state.items():
            if name.startswith(prefix):
                sizes[name.removeprefix(prefix).partition(".")[0]] += value.numel()
        word, size = max(sizes.items(), key=lambda item: item[1], default=("", 0))
        if word not in _WRAPPERS or 2 * size <= total:
            return prefix
        prefix += f"{word}."


Groups = set[tuple[int, int]]


def _groups(layers: Iterable[str]) -> Groups:
    """The modules that hold several layers, as the positions of their first and last one."""
    groups: dict[str, list[int]] = {}
    for position, layer in enumerate(layers):
        parts = layer.split(".")[:_DEEPEST]
        for number in range(1, len(parts)):
            groups.setdefault(".".join(parts[:number]), []).append(position)
    return {(positions[0], positions[-1]) for positions in groups.values() if len(positions) > 1}


def _cross(some: Groups, others: Groups) -> bool:
    """Whether a module of one network begins within a module of the other and ends outside it."""
    return any(a < c <= b < d or c < a <= d < b for a, b in some for c, d in others)
