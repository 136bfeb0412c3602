"""Weights files of others, read without trusting them: none of their code runs here, and their size is limited.

A safetensors file is data: its header is bounded and checked before anything is read. A .pth is a pickle: a separate
process with limits on memory and time reads it with torch's weights-only reader and writes safetensors, which are then
read the same way. There is no other reader to fall back to.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import ModelError
from engine.format_number import check_format
from engine.models.state import COUNTS
from engine.models.unpickle import ALSO_UNDER, FOUND_UNDER, ORDER
from engine.text import counted, memory_size

_MOST_HEADER = 16 * 2**20  # bytes: a header of a thousand tensors is under 0.2 MiB
_MOST_TIMES = 8  # file size relative to the network's weights: with an EMA and Adam's state four, in float64 twice that
_MOST_SECONDS = 300  # for reading a pickle: torchvision's largest takes 10 s including torch's import
_WANTED = "expected a state dict as .safetensors or .pth, alone or in a checkpoint"
NEWEST_FORMAT = 1  # of the header in a run's weights file
_OWN, _MODEL = "reslab", "model."  # key of a checkpoint's header, prefix of its weights' names


@dataclass(frozen=True, slots=True)
class Weights:
    """A state dict, and the header of the checkpoint if a reslab run wrote the file.

    `is_ordered`: in the order in which the network registers its layers, which a pickle keeps and safetensors does not.
    `key` is the key under which a pickle holds the state dict ("": it is one), `beside` the others that hold some.
    """

    state: dict[str, Tensor]
    header: dict[str, Any] | None = None
    is_ordered: bool = False
    key: str = ""
    beside: tuple[str, ...] = ()


def read_weights(path: Path, num_bytes: int) -> Weights:
    """Read the weights for a network of `num_bytes`; from reslab's checkpoints only the weights.

    Raises:
        ModelError: the file is missing, far too large or damaged, or holds anything but tensors of numbers that are
            finite in float32.
    """
    if not path.is_file():
        raise ModelError(f"no weights file {path}; {_WANTED}")
    most = _MOST_TIMES * num_bytes + _MOST_HEADER
    if path.stat().st_size > most:
        raise ModelError(
            f"the weights {path} take {memory_size(path.stat().st_size)}; expected at most {memory_size(most)} for "
            "this network"
        )
    if path.suffix == ".safetensors":
        weights = _read_safetensors(path)
    else:
        with tempfile.TemporaryDirectory(prefix="reslab-") as folder:
            weights = _in_order(_unpickled(path, Path(folder) / "state.safetensors"), path)
    for name, value in weights.state.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():
            raise ModelError(f"the weights {path} are not finite in {name}; expected numbers")
    return weights


def check_fit(state: dict[str, Tensor], network: nn.Module) -> str | None:
    """What in names, shapes and kinds of numbers does not fit `network`, in words; None if everything fits.

    Files from before torch 0.4.1 lack batch-norm's batch counts; torch sets those to 0.
    """
    wanted = network.state_dict()
    lacking = {name for name in wanted.keys() - state.keys() if not name.endswith(COUNTS)}
    for what, names in (("lacks", lacking), ("has unknown", state.keys() - wanted.keys())):
        if names:
            return f"it {what} {min(names)}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            return f"{name} is {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
        if value.is_floating_point() != wanted[name].is_floating_point():
            return f"{name} holds {value.dtype} instead of {wanted[name].dtype}"
    return None


def _read_safetensors(path: Path, named: Path | None = None) -> Weights:
    from safetensors import safe_open

    named = named or path
    try:
        own = _own(_read_header(path))
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if own is None or name.startswith(_MODEL)]  # noqa: SIM118  # no dict
            state = {name if own is None else name.removeprefix(_MODEL): file.get_tensor(name) for name in names}
        return Weights(state, own)
    except ModelError as error:
        raise ModelError(f"cannot read the weights {named} ({error}); {_WANTED}") from None
    except Exception as error:  # a damaged file raises many kinds of errors
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ModelError(f"cannot read the weights {named} ({reason}); {_WANTED}") from None


def _in_order(unpickled: Path, named: Path) -> Weights:
    """What the reader of pickles wrote, in the order in which it found it."""
    state = _read_safetensors(unpickled, named).state
    about = {key: json.loads(text) for key, text in _read_header(unpickled)["__metadata__"].items()}
    ordered = {name: state[name] for name in about[ORDER]}
    return Weights(ordered, None, True, about[FOUND_UNDER], tuple(about[ALSO_UNDER]))


def own_header(path: Path) -> dict[str, Any] | None:
    """The header that a reslab run wrote into its weights file; None for other files.

    Raises:
        ModelError: it is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    try:
        return _own(_read_header(path))
    except OSError as error:
        raise ModelError(f"cannot read the weights {path} ({error.strerror or error}); {_WANTED}") from None
    except ModelError as error:
        raise ModelError(f"cannot read the weights {path} ({error}); {_WANTED}") from None


def _own(header: dict[str, Any]) -> dict[str, Any] | None:
    """The header that a reslab run wrote beside the tensors; None if there is none."""
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or _OWN not in metadata:
        return None
    try:
        own = json.loads(metadata[_OWN])
        is_whole = isinstance(own["spec"]["model"], str) and isinstance(own.get("form", {}), dict)
        is_whole = is_whole and isinstance(own.get("run", 0), int) and _is_normalization(own.get("normalization"))
        is_whole = is_whole and all(isinstance(name, str) for name in own.get("classes", ()))
    except Exception:  # arbitrary content
        is_whole = False
    if not is_whole:
        raise ModelError("its header does not say which reslab run it is from")
    check_format(own, NEWEST_FORMAT, "it", ModelError)
    return dict(own)


def _is_normalization(values: Any) -> bool:
    """None, or as many finite means as positive finite deviations, at least one."""
    if values is None:
        return True
    mean, std = values["mean"], values["std"]
    if not all(type(value) in (int, float) and math.isfinite(value) for value in (*mean, *std)):
        return False
    return bool(mean) and len(mean) == len(std) and min(std) > 0


def _read_header(path: Path) -> dict[str, Any]:
    """Raises ModelError if the header is too long, not a JSON object, or refers beyond the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MOST_HEADER, size - 8):
            raise ModelError(f"its header would be {counted(length, 'byte')} long")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ModelError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise ModelError("its header is not a JSON object")
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not (isinstance(offsets, list) and all(type(at) is int and 0 <= at <= size - 8 - length for at in offsets)):
            raise ModelError("one of its tensors lies outside the file")
    return header


def _unpickled(path: Path, target: Path) -> Path:
    # -P: the current folder may hold a foreign torch.py.
    command = (sys.executable, "-P", "-m", "engine.models.unpickle", str(path.absolute()), str(target))
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_MOST_SECONDS,
            check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ModelError(f"cannot read the weights {path}: it took more than {_MOST_SECONDS} s; {_WANTED}") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"its reader ended with code {done.returncode}"
        raise ModelError(f"cannot read the weights {path} ({reason}); {_WANTED}")
    return target
