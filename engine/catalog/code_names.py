"""Which names of datasets and architectures stand for code of others than reslab, torchvision and timm."""

from __future__ import annotations

from engine.catalog.datasets import CODE, PACKAGE, find_dataset
from engine.catalog.models import find_model
from engine.errors import SpecError


def code_of(dataset: str, model: str) -> list[str]:
    """The names of a spec that stand for code, as the user writes them."""
    found = [
        name for name, is_code in ((dataset, _is_dataset_code(dataset)), (model, _is_model_code(model))) if is_code
    ]
    return [name.removeprefix(CODE.prefix) for name in found]


def _is_dataset_code(name: str) -> bool:
    try:
        return find_dataset(name) in (CODE, PACKAGE)
    except SpecError:  # no longer known: whatever uses it says so
        return False


def _is_model_code(name: str) -> bool:
    try:
        return find_model(name).runs_code
    except SpecError:
        return False
