"""reslab's engine: trains, measures and stores; knows no screen.

Public names are loaded on first use: importing this package loads no torch.

    from engine import Lab, RunSpec

    for event in Lab().train(RunSpec("digits", "resnet18")).events():
        print(event)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from engine.cores import bound_spinning
from engine.lazy_compiler import postpone_compiler

bound_spinning()  # libgomp reads its settings once, when torch is loaded
postpone_compiler()

_HOMES = {
    "Lab": "engine.lab",
    "RunControl": "engine.control",
    "RunSpec": "engine.spec",
    "ReslabError": "engine.errors",
    "find_folders": "engine.paths",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engine' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
