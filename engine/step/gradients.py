"""How strongly each stage of a network learns: its gradient norm, and how far a step moves its weights.

Without shortcuts, the early stages of a deep network show their problem here. A few steps a second are measured; after
each measurement the next one waits until the cost is under a two-hundredth of the training time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from engine.events import GradientsMeasured
from engine.memory.out_of_memory import none_if_out_of_memory

_EVERY_S = 0.3
_MOST_STAGES = 10
_SHARE = 0.005  # of the training time


class Gradients:
    """Measures the update of a step; the result stays on the device until `read`."""

    def __init__(self, run: int, model: nn.Module) -> None:
        self._run = run
        self._stages = stages_of(model)
        self._next_at = 0.0
        self._waiting: tuple[int, Tensor] | None = None

    @property
    def due(self) -> bool:
        return time.perf_counter() >= self._next_at

    def around(self, update: Callable[[], object], step: int) -> None:
        """Run `update`, which is step number `step` (from 1), and measure it if a copy of the weights fits."""
        began = time.perf_counter()
        kept = none_if_out_of_memory(self._before)
        update_began = time.perf_counter()
        update()
        update_s = time.perf_counter() - update_began
        measured = kept and none_if_out_of_memory(lambda: self._after(*kept))
        if measured is not None:
            self._waiting = (step, measured)
        cost_s = time.perf_counter() - began - update_s
        self._next_at = time.perf_counter() + max(_EVERY_S, cost_s / _SHARE)

    def _before(self) -> tuple[list[Tensor], list[list[Tensor]]]:
        """Each stage's gradient norm, and a copy of its weights."""
        norms = [
            _norm([values.grad for values in stage if values.grad is not None] or [torch.zeros_like(stage[0][:0])])
            for stage in self._stages.values()
        ]
        return norms, [[values.detach().clone() for values in stage] for stage in self._stages.values()]

    def _after(self, norms: list[Tensor], before: list[list[Tensor]]) -> Tensor:
        """Norms and ratios (2, stages), still on the device."""
        ratios = []
        for stage, old in zip(self._stages.values(), before, strict=True):
            size = _norm(old).clamp_min(1e-12)
            torch._foreach_sub_(old, [values.detach() for values in stage])  # in place: one copy is enough
            ratios.append(_norm(old) / size)
        return torch.stack([torch.stack(norms), torch.stack(ratios)])

    def read(self) -> GradientsMeasured | None:
        """The last measurement, returned once. Waits for the device."""
        if self._waiting is None:
            return None
        (step, values), self._waiting = self._waiting, None
        norms, ratios = values.tolist()
        return GradientsMeasured(self._run, step, tuple(self._stages), tuple(norms), tuple(ratios))


def stages_of(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by stage, in order.

    A ResNet's stages are the stem (everything before layer1), layer1 …, fc. Other networks are split by module, at the
    first level where no module has more than half of the parameter tensors; neighbours are then merged until at most
    ten are left.
    """
    named = [(name, values) for name, values in model.named_parameters() if values.requires_grad]
    stages: dict[str, list[nn.Parameter]] = {}
    if hasattr(model, "layer1"):
        for name, values in named:
            first = name.split(".")[0]
            stages.setdefault(first if first.startswith("layer") or first == "fc" else "stem", []).append(values)
        return stages
    prefixes = _prefixes([name for name, _ in named])
    kinds = list(dict.fromkeys(prefixes))
    each = -(-len(kinds) // _MOST_STAGES)
    for prefix, (_, values) in zip(prefixes, named, strict=True):
        first = kinds[kinds.index(prefix) // each * each]
        stages.setdefault(first, []).append(values)
    return stages


def _prefixes(names: list[str]) -> list[str]:
    for level in range(1, 8):
        found = [".".join(name.split(".")[:-1][:level]) or name for name in names]
        if max(Counter(found).values()) <= max(len(names) // 2, 2):
            break
    return found


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    """The Euclidean norm of all values together; 0 for none."""
    if not tensors:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))
    return norm
