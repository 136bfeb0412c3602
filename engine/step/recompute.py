"""Activation checkpointing: discard a segment's activations, and recompute them when the backward pass needs them.

Only time changes: random numbers are the same (`preserve_rng_state`), and the second pass updates copies of the
batch-norm statistics, which would otherwise be updated twice. Chen et al. 2016, "Training Deep Nets with Sublinear
Memory Cost".
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recompute_activations(model: nn.Module, uses_rng: bool) -> None:
    """From now on keep only each segment's input. `uses_rng`: the network has dropout or the like."""
    for sequence in sequences_of(model):
        segments = segments_of(sequence)
        sequence.forward = partial(_forward, sequence, segments, uses_rng)  # type: ignore[method-assign]


def sequences_of(model: nn.Module) -> list[nn.Sequential]:
    """A ResNet's stages; in other networks the sequence with the most modules. Sequences that compute something else
    than their layers one after another are left alone.
    """
    stages = [child for name, child in model.named_children() if name.startswith("layer") and _is_plain(child)]
    if stages:
        return [stage for stage in stages if isinstance(stage, nn.Sequential)]
    found = [module for module in model.modules() if isinstance(module, nn.Sequential) and _is_plain(module)]
    return sorted(found, key=lambda module: len(list(module.modules())))[-1:]


def _is_plain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def segments_of(sequence: nn.Sequential) -> list[list[nn.Module]]:
    """The children: each block on its own, other modules (norms, rectifiers, pools) with the layer before them.

    A rectifier may overwrite its input, so it must not begin a segment: the input is needed for recomputation.
    """
    segments: list[list[nn.Module]] = []
    for child in sequence:
        begins = isinstance(child, nn.Conv2d | nn.Linear) or any(True for _ in child.children())
        if begins or not segments:
            segments.append([child])
        else:
            segments[-1].append(child)
    return segments


def _forward(sequence: nn.Sequential, segments: list[list[nn.Module]], uses_rng: bool, x: Tensor) -> Tensor:
    for segment in segments:
        again = sequence.training and torch.is_grad_enabled()
        x = _checkpointed(segment, uses_rng, x) if again else _run(segment, x)
    return x


def _run(segment: list[nn.Module], x: Tensor) -> Tensor:
    for module in segment:
        x = module(x)
    return x


def _checkpointed(segment: list[nn.Module], uses_rng: bool, x: Tensor) -> Tensor:
    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), _scratch_statistics(segment)

    out: Tensor = checkpoint(_run, segment, x, use_reentrant=False, preserve_rng_state=uses_rng, context_fn=contexts)
    return out


@contextmanager
def _scratch_statistics(segment: list[nn.Module]) -> Iterator[None]:
    """Let batch-norm layers update copies of their statistics, then restore the real ones."""
    norms = [module for part in segment for module in part.modules() if isinstance(module, _BatchNorm)]
    kept = [dict(norm._buffers) for norm in norms]
    try:
        for norm in norms:
            for name, values in norm._buffers.items():
                norm._buffers[name] = None if values is None else values.clone()
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            norm._buffers.update(buffers)
