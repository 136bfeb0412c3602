"""Runs a user's own Python: a file's function or class, or one that an installed package provides. Loads no torch.

It is code: it can do whatever the user can. The command line, the app and the README say so where it happens. A file
is executed once for each content; its folder is at the end of the search path, for what it imports from beside it.
What goes wrong in it becomes one sentence with its file and line; the traceback goes to the log.
"""

from __future__ import annotations

import hashlib
import inspect
import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.catalog.installed import Group, Provided, find_provided
from engine.code_reference import CodeReference
from engine.errors import DatasetError, ModelError, ReslabError
from engine.text import safe_text

_MODULE = "reslab_own_"  # begins the names of the modules made from files
_loading = threading.RLock()
_packages: set[str] = set()  # top-level modules of packages that were loaded
_log = logging.getLogger("reslab")


class OwnModelError(ModelError):
    """The user's own network does not work; the text names file and line."""


class OwnDatasetError(DatasetError):
    """The user's own dataset does not work; the text names file and line."""


OwnError = type[OwnModelError] | type[OwnDatasetError]


@dataclass(frozen=True, slots=True)
class OwnObject:
    """A loaded function or class. `shown` names it in sentences."""

    call: Callable[..., Any]
    shown: str
    error: OwnError

    def __call__(self, required: Mapping[str, Any], optional: Mapping[str, Any]) -> Any:
        """Call it with the `required` arguments, and those of the `optional` ones that it takes.

        Raises:
            OwnModelError, OwnDatasetError: it takes other arguments, or raised something.
        """
        with explained(self.shown, self.error):
            try:
                signature = inspect.signature(self.call)
            except (TypeError, ValueError):  # some callables written in C
                return self.call(**required)
            taken = {**required, **{name: value for name, value in optional.items() if name in signature.parameters}}
            try:
                signature.bind(**taken)
            except TypeError as error:
                names = " and ".join(required) or "no arguments"
                at = _line_of(self.call)
                raise self.error(
                    f"{self.shown}{at}: expected a function or class that takes {names}; {error}"
                ) from None
            return self.call(**taken)


def load_from_file(reference: CodeReference, error: OwnError) -> OwnObject:
    """The function or class that `reference` names; runs its file.

    Raises:
        OwnModelError, OwnDatasetError: the file cannot be read or run, or has no such function or class.
    """
    path = reference.path
    try:
        source = path.read_bytes() if path.is_file() else None
    except OSError as problem:
        raise error(f"cannot read {path} ({problem.strerror or problem}); expected a Python file") from None
    if source is None:
        raise error(f"no file {path}; expected a Python file with {reference.name}")
    with _loading:
        module = _module(path, source, error)
    found = getattr(module, reference.name, None)
    if not callable(found):
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise error(
            f"{path} has no function or class {reference.name}; it has {', '.join(map(safe_text, own)) or 'none'}"
        )
    return OwnObject(found, f"{path}:{reference.name}", error)


def load_provided(group: Group, name: str, error: OwnError) -> OwnObject:
    """What the installed package provides as `name`; imports it.

    Raises:
        OwnModelError, OwnDatasetError: no such package provides anything of this name, or it cannot be imported.
    """
    found = require_provided(group, name, error)
    module, _, attributes = found.value.partition(":")
    shown = f"{found.full_name} ({found.value})"
    with explained(shown, error), _loading:
        _packages.add(module.partition(".")[0])
        value = sys.modules.get(module) or __import__(module, fromlist=["*"])
        for attribute in filter(None, attributes.split(".")):
            value = getattr(value, attribute)
    if not callable(value):
        raise error(f"{shown} is no function or class; expected one")
    return OwnObject(value, shown, error)


def require_provided(group: Group, name: str, error: type[ReslabError]) -> Provided:
    """Raises `error` if no installed package provides `name`."""
    found = find_provided(group, name)
    if found is None:
        package, _, rest = name.partition(":")
        raise error(
            f"no installed package {safe_text(package, 80)} provides {safe_text(rest, 80)} as an entry point of "
            f"reslab.{group}; install it where reslab is installed"
        )
    return found


def _module(path: Path, source: bytes, error: OwnError) -> ModuleType:
    name = f"{_MODULE}{hashlib.sha256(str(path).encode('utf-8', 'surrogateescape') + source).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with explained(str(path), error):
            exec(compile(source, str(path), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    return module


@contextmanager
def explained(shown: str, error: OwnError) -> Iterator[None]:
    """Around code of the user's own: what it raises becomes `error`, and what it prints goes to standard error.

    Memory that ran out stays what it is: it is recovered from elsewhere.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (ReslabError, MemoryError, KeyboardInterrupt):
        raise
    except BaseException as problem:  # SystemExit too
        if type(problem).__name__ == "OutOfMemoryError" or "out of memory" in str(problem).lower():
            raise
        if not isinstance(problem, Exception | SystemExit):
            raise
        _log.error("%s failed", shown, exc_info=True)
        raise error(f"{own_fault(problem) or f'{shown}: {_words(problem)}'}; the traceback is in reslab.log") from None


def own_fault(error: BaseException) -> str | None:
    """An error that was raised in code of the user's own: its file, line and message; None for any other error."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: {_words(error)}"
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        name = str(frame.f_globals.get("__name__", ""))
        if name.startswith(_MODULE) or name.partition(".")[0] in _packages:
            return f"{safe_text(frame.f_code.co_filename)}, line {line}: {_words(error)}"
    return None


def _words(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {safe_text(first, 300)}"


def _line_of(call: Callable[..., Any]) -> str:
    try:
        return f", line {inspect.getsourcelines(call)[1]}"
    except (OSError, TypeError):
        return ""


def line_of(value: object) -> str:
    """ ", line 12" of a value's class, if its source is known."""
    return _line_of(type(value))


def file_sha256(path: Path) -> str:
    """Of a user's own file; "" if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
