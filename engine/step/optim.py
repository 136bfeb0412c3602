"""Optimizer and learning-rate schedule from a spec."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.models.building import new_layers
from engine.spec import RunSpec

_ONE_CYCLE_START = 1 / 25  # Smith and Topin 2018, as torch's OneCycleLR: the rate starts at a 25th of the highest
_ONE_CYCLE_END = 1 / 250_000  # and ends at a 10,000th of that
_ONE_CYCLE_RISE = 0.3  # share of the run


def build_optimizer(spec: RunSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer in its fused form, which can skip a step on the device (`StepGuard`).

    Weight decay also applies to norm layers' gains and biases and to the last layer's bias, as in a plain `torch.optim`
    call.
    """
    new = [values for values in new_layers(model) if values.requires_grad]
    known = {id(values) for values in new}
    backbone = [values for values in model.parameters() if values.requires_grad and id(values) not in known]
    groups: list[dict[str, Any]] = [{"params": new, "share": 1.0}, {"params": backbone, "share": spec.backbone_rate}]
    groups = [group for group in groups if group["params"]]
    optimizer: torch.optim.Optimizer
    if spec.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            groups, lr=spec.learning_rate, momentum=spec.momentum, nesterov=spec.nesterov,
            weight_decay=spec.weight_decay, fused=True,
        )  # fmt: skip
    else:
        adam = torch.optim.Adam if spec.optimizer == "adam" else torch.optim.AdamW
        optimizer = adam(groups, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True)
    if spec.epochs:  # else there is no update, and a checkpoint need not hold the state of one
        _allocate_state(spec, optimizer)
    return optimizer


def _allocate_state(spec: RunSpec, optimizer: torch.optim.Optimizer) -> None:
    """Allocate the state now, as the first step would: later updates allocate nothing, so they cannot fail half-way.

    Zeros give the same first step: SGD's buffer becomes momentum · 0 + gradient, which is its usual initial value.
    """
    for group in optimizer.param_groups:
        for values in group["params"]:
            state = optimizer.state[values]
            if spec.optimizer != "sgd":
                state["step"] = torch.zeros((), dtype=torch.float32, device=values.device)
                state["exp_avg"] = torch.zeros_like(values, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(values, memory_format=torch.preserve_format)
            elif spec.momentum:
                state["momentum_buffer"] = torch.zeros_like(values, memory_format=torch.preserve_format)


def learning_rate(spec: RunSpec, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """The learning rate of step `step` (from 0) of `num_steps`.

    Constant and cosine rise linearly during the warm-up, then stay, or fall to zero along half a cosine (Loshchilov and
    Hutter 2016, without restarts). One-cycle rises and falls along half cosines, as torch's OneCycleLR does.
    """
    highest = spec.learning_rate
    warmup = spec.warmup_epochs * steps_per_epoch
    if spec.schedule == "one-cycle":
        # OneCycleLR's own bounds: the last step is the end of the fall.
        top = (warmup or _ONE_CYCLE_RISE * num_steps) - 1
        if step <= top:
            return _between(highest * _ONE_CYCLE_START, highest, step / max(top, 1e-9))
        return _between(highest, highest * _ONE_CYCLE_END, (step - top) / max(num_steps - 1 - top, 1))
    if step < warmup:
        return highest * (step + 1) / math.ceil(warmup)
    if spec.schedule == "constant":
        return highest
    return highest * (1 + math.cos(math.pi * (step - warmup) / max(num_steps - warmup, 1))) / 2


def _between(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`.

    A captured step reads it from the GPU as float32, so every step on a GPU rounds it to float32.
    """
    for group in optimizer.param_groups:
        value = rate * group["share"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(value)
        elif group["params"][0].device.type == "cuda":
            group["lr"] = float(np.float32(value))
        else:
            group["lr"] = value
