"""The report's experiments as presets, with the published figures. Loads no torch.

The report is the student report that reslab grew from; the degradation study is He et al. 2015, "Deep Residual
Learning for Image Recognition".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.errors import SpecError
from engine.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Published:
    """Published figures, as fractions; None if not given. `source` is where."""

    source: str
    untrained: float | None = None
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None


@dataclass(frozen=True, slots=True)
class Preset:
    """Runs to train one after another. `published` has one entry per run, None if there are no published figures.

    `pairs` are the runs to compare, by position. `caveat` says how the experiment differs from the published one.
    """

    name: str
    title: str
    specs: tuple[RunSpec, ...]
    published: tuple[Published | None, ...]
    pairs: tuple[tuple[int, int], ...] = ()
    caveat: str | None = None


_REPORT = "the report"
_HE = "He et al. 2015, table 6, CIFAR-10"
_CIFAR_ACCURACY = {"resnet20": 0.9125, "resnet32": 0.9249, "resnet44": 0.9283, "resnet56": 0.9303, "resnet110": 0.9357}
_DEGRADATION_DEPTHS = (20, 32, 56)

PRESETS: dict[str, str] = {
    "part2": "ResNet-18 on MNIST at 8×8, ten epochs",
    "part3": "ResNet-18 against ResNet-50 on cats vs dogs, three epochs, pretrained",
    "degradation": "plain against residual networks at growing depth",
}


def find_preset(name: str, changes: Mapping[str, Any]) -> Preset:
    """The preset `name`, with `changes` applied to all of its runs.

    Raises:
        SpecError: there is no such preset, or a setting is not valid.
    """
    if name not in PRESETS:
        raise SpecError(f"no report {name!r}; choose one of {', '.join(PRESETS)}")
    runs = {"part2": _part2, "part3": _part3, "degradation": _degradation}[name](dict(changes))
    specs, published = zip(*runs, strict=True)
    pairs = tuple((first, first + 1) for first in range(0, len(specs) - 1, 2))
    return Preset(name, PRESETS[name], specs, published, pairs, _caveat(name, specs))


_Run = tuple[RunSpec, Published | None]


def _part2(changes: dict[str, Any]) -> list[_Run]:
    found = Published(_REPORT, untrained=0.1135, accuracy=0.9745, balanced_accuracy=0.974222, precision=0.974268,
                      recall=0.974222, f1=0.974231)  # fmt: skip
    return [(_spec({"dataset": "mnist", "model": "resnet18", "image_size": 8, "epochs": 10}, changes), found)]


def _part3(changes: dict[str, Any]) -> list[_Run]:
    base = {"dataset": "cats-dogs", "epochs": 3, "weights": "imagenet"}
    return [
        (_spec({**base, "model": "resnet18"}, changes), Published(_REPORT, untrained=0.60507, accuracy=0.98173)),
        (_spec({**base, "model": "resnet50"}, changes), Published(_REPORT, untrained=0.26547, accuracy=0.98133)),
    ]


def _degradation(changes: dict[str, Any]) -> list[_Run]:
    runs: list[_Run] = []
    for depth in _DEGRADATION_DEPTHS:
        for family in ("plain", "resnet"):
            model = f"{family}{depth}"
            accuracy = _CIFAR_ACCURACY.get(model)
            found = Published(_HE, accuracy=accuracy) if accuracy else None
            runs.append((_spec({"dataset": "digits", "model": model}, changes), found))
    return runs


def _spec(values: dict[str, Any], changes: dict[str, Any]) -> RunSpec:
    return RunSpec.from_mapping({**values, **{name: value for name, value in changes.items() if name != "model"}})


def _caveat(name: str, specs: tuple[RunSpec, ...]) -> str | None:
    first = specs[0]
    if name == "part3" and first.weights == "random":
        return "The published networks began from ImageNet weights, these from random ones: not the same experiment."
    if name == "part3" and first.image_size not in (None, 224):
        return f"The published networks saw larger images than {first.image_size}×{first.image_size}."
    if name == "degradation" and first.dataset != "cifar10":
        return f"The published figures are of CIFAR-10 after 64,000 steps, not of {first.dataset}: another experiment."
    return None
