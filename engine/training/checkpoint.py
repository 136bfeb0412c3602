"""Weights and optimizer state on disk: safetensors with a JSON header, written whole or not at all, with a SHA-256.

No pickle. The name of a file carries its step, so a new one never overwrites the one that the record still names:
the caller removes the old file after it has recorded the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.errors import CheckpointError

_MODEL = "model."
_OPTIMIZER = "optimizer."


@dataclass(frozen=True, slots=True)
class SavedFile:
    """A complete file: its `name` inside the folder, SHA-256 and size."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a file held, on the CPU. `optimizer` is a state dict's "state": by parameter index, then by name."""

    model: dict[str, Tensor]
    optimizer: dict[int, dict[str, Tensor]]
    header: dict[str, Any]


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, header: dict[str, Any]
) -> SavedFile:
    """Write `step-<header["step"]>.safetensors` into `folder`: temporary file, fsync, hash, rename, fsync.

    Raises:
        CheckpointError: it could not be written; nothing half-written is left.
    """
    from safetensors.torch import save_file

    tensors = {_MODEL + name: _on_host(value) for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"{_OPTIMIZER}{index}.{name}"] = _on_host(value)
    path = folder / f"step-{header['step']:08d}.safetensors"
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata={"reslab": json.dumps(header)})
        _sync(part)
        saved = SavedFile(path.name, file_sha256(part), part.stat().st_size)
        os.replace(part, path)
        _sync(folder)
    except Exception as error:  # safetensors raises its own kind on a full disk, Python OSError
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise CheckpointError(f"cannot write weights to {folder} ({error}); is the disk full or read-only?") from error
    return saved


def _on_host(value: Tensor) -> Tensor:
    """A copy of its own in host memory: the device may have no room for one."""
    return value.detach().to("cpu", copy=True).contiguous()


def load_checkpoint(path: Path, sha256: str) -> Checkpoint:
    """Read a file that `save_checkpoint` wrote.

    Raises:
        CheckpointError: it is missing, damaged, or not the file that was recorded.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if (found := file_sha256(path)) != sha256:
            raise CheckpointError(f"{path} is damaged: its SHA-256 is {found[:12]}…, recorded was {sha256[:12]}…")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no dict
            header = json.loads((file.metadata() or {})["reslab"])
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path} ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no checkpoint of reslab ({error})") from None
    model = {name.removeprefix(_MODEL): value for name, value in tensors.items() if name.startswith(_MODEL)}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, key = name.removeprefix(_OPTIMIZER).split(".", 1)
            optimizer.setdefault(int(index), {})[key] = value
    return Checkpoint(model, optimizer, header)


def remove_other_checkpoints(folder: Path, keep: str) -> None:
    """Delete every checkpoint in `folder` but the one named `keep`."""
    for path in folder.glob("*step-*.safetensors*"):
        if path.name != keep:
            path.unlink(missing_ok=True)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
