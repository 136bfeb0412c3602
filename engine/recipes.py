"""Named sets of settings: one word instead of six options. Loads no torch.

`fast` is for small grey images: it reaches in one epoch what the report's recipe reaches in ten.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from engine.errors import unknown_name
from engine.settings import Value

# One-cycle: Smith and Topin 2018, "Super-Convergence"; the rest is common to most fast recipes since. Batch size and
# rate are the best of eight pairs (128 to 512, 0.1 to 1.6; two seeds each) on a held-out tenth of MNIST's training
# images at 8×8: 98.07 and 97.95 %, the same as 128 and 0.4 in less time.
_FAST: dict[str, Value] = {
    "epochs": 1, "batch_size": 256, "optimizer": "sgd", "learning_rate": 0.4, "momentum": 0.9, "nesterov": True,
    "weight_decay": 5e-4, "schedule": "one-cycle", "warmup_epochs": 0.0, "label_smoothing": 0.1, "stem": "auto",
}  # fmt: skip

RECIPES: Mapping[str, Mapping[str, Value]] = MappingProxyType({"report": {}, "fast": _FAST})
RECIPE_HELP = "initial settings, overridden by files and options: report (the defaults), or fast (one epoch)"


def find_recipe(name: str) -> Mapping[str, Value]:
    """The settings of a recipe; all others are the defaults.

    Raises:
        SpecError: there is no such recipe.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, list(RECIPES), "recipe")
    return RECIPES[name]
