"""The settings of a run: `RunSpec`, frozen and checked, to JSON and TOML and back unchanged.

It says nothing about where files are or what the machine has: that is in `RunStarted`. Two specs are the same if their
canonical JSON is. Loads no torch.
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

from engine.catalog.datasets import FOLDER, absolute_dataset, find_dataset, kind_of
from engine.catalog.models import find_model
from engine.columns import AUTO, EXAMPLE, parse_columns
from engine.errors import SpecError
from engine.format_number import KEY, check_format, parse_object
from engine.normalization import read_moments
from engine.paths import names_run, run_of
from engine.settings import Effect, Setting, Value, setting, settings_of
from engine.text import counted, escaped, safe_text

Stem = Literal["imagenet", "small", "auto"]
Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "cosine", "one-cycle"]
DeviceChoice = Literal["auto", "cuda", "mps", "cpu"]
OnOom = Literal["micro-batch", "checkpoint", "fail"]
DtypeChoice = Literal["auto", "float32", "bfloat16"]
FORMAT = 1
"""Format of stored specs and spec files. Raised when a setting changes its meaning; a new one has a default instead."""
_WEIGHTS = "random, imagenet, run:NUMBER or the path of a file with weights"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RunSpec:
    """The settings of one training run. Constructing one checks it.

    Raises:
        SpecError: a value is out of range, or two values exclude each other; `.field` names the setting.
    """

    dataset: str = setting(
        help="a name that `reslab datasets` lists, or a path", group="data", affects=("images", "epoch", "result")
    )
    model: str = setting(
        help="a name that `reslab models` lists, timm:NAME, or a file of your own: ./net.py:NAME or ./net.toml",
        group="model",
        affects=("step", "memory", "result"),
    )
    epochs: int = setting(
        10,
        help="passes over the images; 0: evaluate",
        group="recipe",
        affects=("result",),
        common=True,
        low=0,
        high=100_000,
    )
    batch_size: int = setting(
        128,
        help="images per step; a last batch of one joins the one before",
        group="recipe",
        affects=("step", "memory", "result"),
        common=True,
        unit="images",
        low=2,
        high=65_536,
    )
    learning_rate: float = setting(
        0.01,
        help="the highest rate that the schedule reaches",
        group="recipe",
        affects=("result",),
        common=True,
        above=0,
        high=1000,
    )
    optimizer: Optimizer = setting(
        "sgd",
        help="the rule that turns gradients into updates",
        group="recipe",
        affects=("step", "memory", "result"),
        common=True,
    )
    momentum: float = setting(
        0.9,
        help="for SGD; 0: plain SGD; Adam ignores it",
        group="recipe",
        affects=("memory", "result"),
        common=True,
        low=0,
        below=1,
    )
    nesterov: bool = setting(
        False, help="Nesterov's form of momentum, for SGD", group="recipe", affects=("memory", "result")
    )
    weight_decay: float = setting(
        0.0, help="L2 for SGD and Adam, decoupled for AdamW", group="recipe", affects=("result",), low=0, high=10
    )
    schedule: Schedule = setting(
        "constant", help="how the learning rate moves over the run", group="recipe", affects=("result",), common=True
    )
    warmup_epochs: float = setting(
        0.0,
        help="linear rise of the rate; one-cycle: its rising part, 0 means 30 % of the run",
        group="recipe",
        affects=("result",),
        unit="epochs",
        low=0,
        high=100_000,
    )
    label_smoothing: float = setting(
        0.0, help="share of the target spread over all classes", group="recipe", affects=("result",), low=0, below=1
    )
    flip: bool = setting(
        False,
        help="mirror each training image at random",
        group="recipe",
        affects=("step", "memory", "result"),
    )
    crop_padding: int = setting(
        0,
        help="shift training images at random by up to this much; 0: off",
        group="recipe",
        affects=("step", "memory", "result"),
        unit="pixels",
        low=0,
        high=512,
    )
    image_size: int | None = setting(
        None,
        help="resize to this square: shorter side, then centre crop; none keeps the native size",
        group="data",
        affects=("images", "epoch", "result"),
        common=True,
        unit="pixels",
        low=4,
        high=1024,
    )
    val_share: float = setting(
        0.0,
        help="share of the training images held out for validation, so that the test set stays unread",
        group="data",
        affects=("images", "epoch", "result"),
        low=0,
        below=1,
    )
    test_share: float = setting(
        0.2,
        help="share of the images that becomes the test set, in a folder without a test part",
        group="data",
        affects=("images", "epoch", "result"),
        above=0,
        below=1,
    )
    split_seed: int = setting(
        0,
        help="seed of both splits, apart from seed, so that runs with different seeds share the test images",
        group="data",
        affects=("images", "result"),
        low=0,
        high=2**32 - 1,
    )
    columns: str = setting(
        AUTO,
        help=f"of a csv: dataset, such as {EXAMPLE}; auto: by their usual names",
        group="data",
        affects=("images", "epoch", "result"),
    )
    normalization: str = setting(
        "auto",
        help="of the pixels: dataset, imagenet, none, or MEAN/STD such as 0.5/0.25; auto: as the weights' run had it, "
        "ImageNet's for other trained weights, else the dataset's own",
        group="data",
        affects=("images", "result"),
    )
    exclude: str | None = setting(
        None,
        help="a text file of images to leave out, one SHA-256 of a file (or of its pixels) a line",
        group="data",
        affects=("images", "epoch", "result"),
    )
    stem: Stem = setting(
        "imagenet",
        help="ResNet's first layers: 7×7/2 with max-pool, or 3×3/1 without; auto: small under 64 pixels",
        group="model",
        affects=("step", "memory", "result"),
        common=True,
    )
    weights: str = setting(
        "random",
        help="random, imagenet, run:NUMBER for the weights of a run, or the path of a file with weights",
        group="model",
        affects=("images", "result"),
        common=True,
    )
    head: Literal["auto", "keep", "new"] = setting(
        "auto",
        help="the last layer of trained weights; auto: kept if the classes and their order are the same, or unknown "
        "but as many",
        group="model",
        affects=("result",),
    )
    freeze: Literal["none", "backbone"] = setting(
        "none",
        help="backbone: train only the last layer, and the first if it was changed; needs trained weights",
        group="model",
        affects=("step", "memory", "result"),
    )
    backbone_rate: float = setting(
        1.0,
        help="share of the learning rate that the layers with trained weights get",
        group="recipe",
        affects=("result",),
        above=0,
        high=1,
    )
    shortcut_padding: Literal["auto", "end", "both-sides"] = setting(
        "auto",
        help="where a CIFAR ResNet's shortcuts put the zeros of new channels; auto: at the end, or, for given "
        "weights, where their statistics say",
        group="model",
        affects=("result",),
    )
    norm: Literal["batch", "group"] = setting(
        "batch", help="the normalisation layers of a ResNet", group="model", affects=("step", "memory", "result")
    )
    seed: int = setting(
        0, help="initialisation, order of images, augmentation", group="run", affects=("result",), low=0, high=2**32 - 1
    )
    device: DeviceChoice = setting(
        "auto", help="where to train; auto: cuda, else mps, else cpu", group="run", affects=("step", "result")
    )
    dtype: DtypeChoice = setting(
        "auto",
        help="of the arithmetic; auto: bfloat16 on GPUs that support it, on a CPU whichever measures fastest; "
        "float32 with 0 epochs",
        group="run",
        affects=("step", "memory", "result"),
    )
    on_oom: OnOom = setting(
        "micro-batch",
        help="if memory runs out: split batches, or recompute activations (checkpoint), or fail",
        group="run",
        affects=("result",),
    )
    compile: bool = setting(
        False,
        help="compile the network with torch.compile before the first step: a minute or more, once",
        group="run",
        affects=("step", "result"),
    )
    checkpoint_every: float = setting(
        60.0,
        help="time between checkpoints; an interrupted run resumes from its last one",
        group="run",
        affects=(),
        unit="s",
        low=1,
        high=86_400,
    )
    deterministic: bool = setting(
        False, help="refuse nondeterministic operations on a GPU", group="run", affects=("step", "result")
    )

    def __post_init__(self) -> None:
        for name, described in settings_of(RunSpec).items():
            object.__setattr__(self, name, described.check(getattr(self, name)))
        if kind_of(self.dataset) is None:  # a path alone
            object.__setattr__(self, "dataset", absolute_dataset(self.dataset))
        find_dataset(self.dataset)
        parse_columns(self.columns)
        info = find_model(self.model)
        if self.norm != "batch" and not info.resnet:
            raise SpecError(f"norm: {self.model} has its own normalisation; set norm to batch, which keeps it", "norm")
        if self.shortcut_padding != "auto" and not info.in_padded_pair:
            raise SpecError(
                f"shortcut padding: {self.model} has no padded shortcuts, only CIFAR ResNets do; leave it at auto",
                "shortcut_padding",
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise SpecError("nesterov: needs a momentum above 0; set momentum, or turn nesterov off", "nesterov")
        if self.warmup_epochs > 0 and self.warmup_epochs >= self.epochs:
            raise SpecError(
                f"warmup epochs: {self.warmup_epochs:g} is not valid; expected less than the "
                f"{counted(self.epochs, 'epoch')} of the run",
                "warmup_epochs",
            )
        self._check_weights()
        read_moments(self.normalization)

    def _check_weights(self) -> None:
        needing = {
            "freeze": self.freeze != "none",
            "backbone_rate": self.backbone_rate != 1,
            "head": self.head == "keep",
        }
        if self.weights == "random" and any(needing.values()):
            field = next(name for name, is_set in needing.items() if is_set)
            label = field.replace("_", " ")
            raise SpecError(f"{label}: needs trained weights; set weights to imagenet or a path, or leave it", field)
        if not self.weights.strip():
            raise SpecError(f"weights: missing; expected {_WEIGHTS}", "weights")
        if names_run(self.weights) and run_of(self.weights) is None:
            raise SpecError(f"weights: {safe_text(self.weights, 40)!r} is not valid; expected run:NUMBER", "weights")

    def to_dict(self) -> dict[str, Any]:
        """Every setting by name, without those that are None."""
        return {name: value for name in settings_of(RunSpec) if (value := getattr(self, name)) is not None}

    def to_stored(self) -> dict[str, Any]:
        """As `to_dict`, with the format number."""
        return {KEY: FORMAT, **self.to_dict()}

    def to_json(self, unknown: Mapping[str, Any] = _NOTHING) -> str:
        """Canonical: sorted keys, no spaces. `unknown` are stored settings that this version does not have."""
        return _canonical({**unknown, **self.to_stored()})

    def to_toml(self, unknown: Mapping[str, Any] = _NOTHING) -> str:
        """One setting per line; `unknown` ones, as in `to_json`, become comments."""
        # Strings, numbers and booleans are the same in JSON and TOML, except for raw control and format characters.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in self.to_stored().items()]
        lines += [f"# unknown setting: {safe_text(f'{name} = {json.dumps(value)}')}" for name, value in unknown.items()]
        return escaped("".join(f"{line}\n" for line in lines), toml=True)

    def seed_group(self, with_path: bool = True) -> str:
        """The key of runs that differ only in their seed: canonical JSON of the other settings that affect the result.
        Without `with_path`, kind and path of the user's own images are left out, for use with the images' hash.
        """
        named = affecting("result")
        rest = {name: value for name, value in self.to_dict().items() if name in named and name != "seed"}
        if not with_path and find_dataset(self.dataset).is_own:
            rest["dataset"] = FOLDER.prefix
        return _canonical(rest)

    def replace(self, **changes: Any) -> RunSpec:
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> RunSpec:
        """Build a spec from parsed JSON or TOML, with or without a format number.

        Raises:
            SpecError: a key is unknown, the dataset or the model is missing, a value is not valid, or a newer reslab
                wrote it.
        """
        check_format(values, FORMAT, "the spec", SpecError)
        known = settings_of(RunSpec)
        if unknown := [*unknown_settings(values)]:
            raise SpecError(f"unknown setting {unknown[0]!r}: there are {', '.join(known)}", unknown[0])
        for name in ("dataset", "model"):
            if name not in values:
                raise SpecError(f"{name}: missing; expected {known[name].help}", name)
        return cls(**{name: value for name, value in values.items() if name != KEY})

    @classmethod
    def from_stored(cls, values: Mapping[str, Any]) -> RunSpec:
        """The spec of a stored run, without settings that this version does not have (`unknown_settings`).

        Raises:
            SpecError: as `from_mapping`, except for unknown keys.
        """
        unknown = unknown_settings(values)
        return cls.from_mapping({name: value for name, value in values.items() if name not in unknown})

    @classmethod
    def from_json(cls, text: str) -> RunSpec:
        return cls.from_mapping(parse_object(text))

    @classmethod
    def from_toml(cls, text: str) -> RunSpec:
        try:
            return cls.from_mapping(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise SpecError(f"not TOML: {error}; expected lines such as epochs = 10") from None


def unknown_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stored spec that this version does not have: newer or removed ones."""
    known = settings_of(RunSpec)
    return {name: value for name, value in values.items() if name not in known and name != KEY}


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@cache
def affecting(*effects: Effect) -> tuple[str, ...]:
    """The names of the settings that affect any of these, in the spec's order."""
    described = settings_of(RunSpec).items()
    return tuple(name for name, item in described if not set(effects).isdisjoint(item.affects))


__all__ = ["RunSpec", "Setting", "Value", "affecting", "settings_of", "unknown_settings"]
