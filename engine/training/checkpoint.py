"""Weights, optimizer state and position on disk: a safetensors file, written whole or not at all, with a SHA-256.

No pickle. A file's name carries its step, so a new file never overwrites the one that the database still names; the
caller removes old files after it has recorded the new one. The layout is safetensors' own
(https://huggingface.co/docs/safetensors: length, JSON header, the tensors' bytes), written straight from the tensors'
memory and hashed on the way: the library's own writer first copies everything and blocks all other threads.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError
from engine.format_number import KEY, check_format
from engine.models.weights import NEWEST_FORMAT

_MODEL = "model."
_OPTIMIZER = "optimizer."
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_ALIGNED = 8  # bytes: alignment of the tensors in the format
_META = "reslab"
FORMAT = NEWEST_FORMAT  # of the header
_log = logging.getLogger("reslab")


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A complete file: its `name` inside the folder, SHA-256 and size."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Contents of a file, on the CPU. `optimizer` is a state dict's "state": by parameter index, then by name."""

    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    header: dict[str, Any]


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Copy weights, statistics and optimizer state to host memory, under the names used in a file."""
    tensors = {_MODEL + name: _on_host(value) for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{name}"] = _on_host(value)
    return tensors


def write_checkpoint(folder: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> SavedFile:
    """Write `step-<header["step"]>.safetensors` into `folder`: temporary file, fsync, rename, fsync.

    Raises:
        CheckpointError: it could not be written; no partial file is left.
    """
    path = folder / f"step-{header['step']:08d}.safetensors"
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if not folder.exists():
            folder.mkdir(parents=True, exist_ok=True)  # a control request may have created it meanwhile
            _sync(folder.parent)
        sha256 = _write(part, tensors, header)
        saved = SavedFile(path.name, sha256, part.stat().st_size)
        os.replace(part, path)
        _sync(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(
            f"cannot write weights to {folder} ({error.strerror or error}); is the disk full or read-only?"
        ) from error
    return saved


def _write(path: Path, tensors: Mapping[str, Tensor], header: dict[str, Any]) -> str:
    """Write and sync the file; returns its SHA-256."""
    layout: dict[str, Any] = {"__metadata__": {_META: json.dumps({**header, KEY: FORMAT})}}
    start = 0
    for name, value in tensors.items():
        stop = start + value.nbytes
        layout[name] = {"dtype": _DTYPES[value.dtype], "shape": list(value.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(layout).encode()
    text += b" " * (-len(text) % _ALIGNED)
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    parts += [_bytes_of(value) for value in tensors.values()]
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for part in parts:
            file.write(part)
            digest.update(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> memoryview:
    return memoryview(value.reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _on_host(value: Tensor) -> Tensor:
    """A copy in host memory: the device may have no memory for one."""
    return value.detach().to("cpu", copy=True).contiguous()


def _checked_header(header: Any, path: Path) -> dict[str, Any]:
    """Raises ValueError if it is not a header, CheckpointError if a newer reslab wrote it."""
    if not isinstance(header, dict):
        raise ValueError("its header is not a JSON object")
    check_format(header, FORMAT, f"the checkpoint {path}", CheckpointError)
    return header


def load_checkpoint(path: Path, sha256: str) -> Checkpoint:
    """Read a file that `write_checkpoint` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or not the recorded file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        verify_checkpoint(path, sha256)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            header = _checked_header(json.loads((file.metadata() or {})[_META]), path)
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path} ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not a reslab checkpoint ({error})") from None
    model = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            if not index.isdecimal():
                raise CheckpointError(f"{path} is not a reslab checkpoint (it has a tensor {name})")
            optimizer.setdefault(int(index), {})[key] = value
    return Checkpoint(model, optimizer, header)


def verify_checkpoint(path: Path, sha256: str) -> None:
    """Raises CheckpointError if the file is missing or not the recorded one, OSError if it cannot be read."""
    if not path.is_file():  # reading a pipe would never end
        raise CheckpointError(f"cannot read weights {path}: there is no such file")
    if (found := file_sha256(path)) != sha256:
        raise CheckpointError(f"{path} is damaged: its SHA-256 is {found[:12]}…, expected {sha256[:12]}…")


def remove_other_checkpoints(folder: Path, keep: Collection[str], newer: bool = True) -> None:
    """Delete every checkpoint in `folder` except those in `keep`, partial files too. Without `newer`, checkpoints of
    later steps stay: another process may be writing them.
    """
    newest = max(keep, default="")
    for path in folder.glob("*step-*.safetensors*"):
        spared = not newer and path.name[path.name.index("step-") :] > newest
        if path.name not in keep and not spared and not _deleted(path) and not _deleted(path):
            _log.warning("cannot delete %s", path)  # the next call tries again


def _deleted(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return False
    return True


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
