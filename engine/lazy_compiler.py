"""Keeps torch's compiler unloaded until something compiles. Loads no torch.

torchvision and every optimizer import `torch._dynamo`, and with it sympy, triton and a thousand modules: 154 MB and
about half of the loading time of torch and torchvision. Without `--compile` they call only three of its functions, none
of which does anything then. A stand-in module here has those three; any other attribute, or the import of a submodule,
loads the real module for good.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from types import ModuleType
from typing import Any

_NAME = "torch._dynamo"
_ALONE = f"{_NAME}.config"  # a submodule that loads nothing else
_loading = threading.RLock()


class _StandIn(ModuleType):
    """A module with only the `known` names; any other name loads the real module."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name == "__path__" and self.__name__ == _NAME:
            self.__path__ = _folder()
            return self.__path__
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(load_real(self.__name__), name)


class _Finder:
    """First on `sys.meta_path`: loads the real module before any of its submodules."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.startswith(f"{_NAME}.") and name != _ALONE and isinstance(sys.modules.get(_NAME), _StandIn):
            load_real(_NAME)
            loaded = sys.modules.pop(name, None)
            return find_spec(name) if loaded is None else ModuleSpec(name, _AsLoaded(loaded), origin=loaded.__file__)
        return None


class _AsLoaded(Loader):
    """Returns a module that its package has already loaded, instead of loading it twice."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


def postpone_compiler() -> None:
    """Call before torch is loaded; does nothing if it is loaded already."""
    if "torch" in sys.modules or _NAME in sys.modules:
        return
    sys.meta_path.insert(0, _Finder)
    sys.modules[_NAME] = _StandIn(_NAME, {"disable": _disable, "graph_break": _nothing})
    sys.modules[f"{_NAME}.utils"] = _StandIn(f"{_NAME}.utils", {"is_compile_supported": _is_compile_supported})


def is_postponed() -> bool:
    return isinstance(sys.modules.get(_NAME), _StandIn)


def load_real(name: str = _NAME) -> ModuleType:
    """The real module of this name, loaded now if necessary."""
    with _loading:
        if is_postponed():
            sys.meta_path.remove(_Finder)
            for one in (_NAME, f"{_NAME}.utils"):
                del sys.modules[one]
            import_module(_NAME)
    return import_module(name)


def _folder() -> list[str]:
    torch = sys.modules["torch"]
    found = PathFinder.find_spec(_NAME, torch.__path__)
    assert found is not None
    return list(found.submodule_search_locations or ())


def _disable(function: Callable[..., Any], *settings: Any, **more: Any) -> Callable[..., Any]:
    """Stands in for `disable`, which excludes a function from compilation."""
    return function


def _nothing(*arguments: Any) -> None:
    """Stands in for `graph_break`, which splits a graph during compilation."""


def _is_compile_supported(device_type: str) -> bool:
    return False
