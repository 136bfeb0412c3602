"""What a trained network's features say: pairs that it can hardly tell apart, and images far from their class.

Features are the input of the last layer, compared by their cosine, in blocks on the device.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import torch
from torch import Tensor

from engine.control import Control
from engine.data.audit.rules import MOST_ODD, MOST_PAIRS
from engine.data.audit.values import ByNetwork, ImagePair, ImageRef, OddImage
from engine.progress import LoadingStopped, Progress

LEAST_COSINE = 0.995
_BLOCK = 1024
_NEIGHBOURS = 4  # of each image


def judge(
    features: Tensor, refs: Sequence[ImageRef], class_names: Sequence[str], run: int, control: Control
) -> Generator[Progress, None, ByNetwork]:
    """Judge the images `refs` by their `features` (N, D) from run number `run`.

    Raises:
        LoadingStopped: `control` requested a stop.
    """
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    pairs = yield from _pairs(unit, refs, control)
    return ByNetwork(run, pairs, _odd(unit, refs, class_names))


def _pairs(
    unit: Tensor, refs: Sequence[ImageRef], control: Control
) -> Generator[Progress, None, tuple[ImagePair, ...]]:
    """The most similar pairs of images that are not identical."""
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(unit), _BLOCK):
        if control.stop_requested:
            raise LoadingStopped
        yield Progress("compare", start, len(unit), "images")
        block = unit[start : start + _BLOCK]
        similar = block @ unit.T
        rows = torch.arange(len(block), device=unit.device)
        similar[rows, rows + start] = -1
        best = similar.topk(min(_NEIGHBOURS, len(unit)), dim=1)
        kept = best.values >= LEAST_COSINE
        one = (rows[:, None] + start).expand_as(best.indices)[kept].tolist()
        for a, b, cosine in zip(one, best.indices[kept].tolist(), best.values[kept].tolist(), strict=True):
            if refs[a].sha256 != refs[b].sha256:
                found[min(a, b), max(a, b)] = cosine
    ordered = sorted(found.items(), key=lambda item: -item[1])[:MOST_PAIRS]
    return tuple(ImagePair(refs[a], refs[b], None, round(min(cosine, 1.0), 5)) for (a, b), cosine in ordered)


def _odd(unit: Tensor, refs: Sequence[ImageRef], class_names: Sequence[str]) -> tuple[OddImage, ...]:
    """Images nearer to another class's mean than to their own; means are those of the training images."""
    numbers = {name: number for number, name in enumerate(class_names)}
    labels = torch.tensor([numbers[ref.class_name] for ref in refs], device=unit.device)
    in_train = torch.tensor([ref.part == "train" for ref in refs], device=unit.device)
    means = torch.zeros(len(class_names), unit.shape[1], device=unit.device)
    means.index_add_(0, labels[in_train], unit[in_train])
    distances = 1 - unit @ torch.nn.functional.normalize(means, dim=1).T
    own = distances.gather(1, labels[:, None])[:, 0]
    nearest, which = distances.min(dim=1)
    order = (own - nearest).argsort(descending=True)[:MOST_ODD].tolist()
    names, owns, nearests = which.tolist(), own.tolist(), nearest.tolist()
    found = [OddImage(refs[i], class_names[names[i]], round(owns[i], 6), round(nearests[i], 6)) for i in order]
    return tuple(item for item in found if item.nearest_distance < item.own_distance)
