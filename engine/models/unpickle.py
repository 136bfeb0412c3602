"""`python -m engine.models.unpickle FROM.pth TO.safetensors`: reads an untrusted pickle in a process of its own.

Limits on memory and processor time are set before the file is opened. Exits with 0, or says in one line why not. Only
the tensors of one state dict are written, with the order of their names, which safetensors does not keep, and the key
under which the state dict was found.
"""

from __future__ import annotations

import json
import pickle
import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.text import counted, safe_text, some_of

ORDER, FOUND_UNDER, ALSO_UNDER = "reslab-order", "reslab-found-under", "reslab-also-under"  # keys of its metadata
_WRAPPERS = ("state_dict", "model", "model_state_dict", "net", "ema", "teacher")  # where they are found, first to last
_DEEPEST = 3  # dicts inside each other, the state dict included
_BESIDE = 2**30  # bytes beyond three times the file size, for the pickle and its copy
_CPU_S = 120


def main(source: Path, target: Path) -> str | None:
    """Returns what is wrong; None if it was written."""
    from safetensors.torch import save_file

    _bound(3 * source.stat().st_size + _BESIDE)
    try:
        state = torch.load(source, map_location="cpu", weights_only=True)
    except MemoryError:
        return "it takes more memory than its size explains"
    except pickle.UnpicklingError as error:
        return _refusal(str(error))
    except KeyError:  # a byte that is not a pickle opcode
        return "it was not written by torch.save"
    except Exception as error:  # a damaged file raises many kinds of errors
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    found = find_state(state)
    if isinstance(found, str):
        return found
    about = {ORDER: [*found.tensors], FOUND_UNDER: found.key, ALSO_UNDER: found.beside}
    tensors = {name: value.detach().clone().contiguous() for name, value in found.tensors.items()}
    save_file(tensors, target, {key: json.dumps(value) for key, value in about.items()})
    return None


@dataclass(frozen=True, slots=True)
class Found:
    """A state dict, the key under which it was found ("": the file is one), and the other keys that hold some."""

    tensors: dict[str, Tensor]
    key: str = ""
    beside: tuple[str, ...] = ()


def find_state(loaded: Any, depth: int = _DEEPEST) -> Found | str:
    """The state dict in what torch.load returned, or why there is none.

    A wrapper's usual keys come first, then tensors by name, then the only other key with a state dict; a wrapper may
    hold another one. Whatever is not a tensor is ignored.
    """
    if not isinstance(loaded, dict) or depth == 0:
        return "it holds no state dict of names and tensors, as torch.save(model.state_dict()) writes"
    named = {key: value for key, value in loaded.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, Tensor) and _is_plain(value)}
    inner = {key: found for key in named if isinstance(found := find_state(named[key], depth - 1), Found)}
    key = next((key for key in _WRAPPERS if key in inner), None)
    if key is None and tensors:
        return Found(tensors)
    if key is None and len(inner) != 1:
        what = f"{counted(len(inner), 'state dict')} ({_shown(inner)})" if inner else f"no state dict ({_shown(named)})"
        return f"it holds {what}; its weights are looked for under {', '.join(_WRAPPERS)}"
    key = key or next(iter(inner))
    beside = tuple(other for other in inner if other != key)
    return Found(inner[key].tensors, "/".join(filter(None, (key, inner[key].key))), beside)


def _is_plain(tensor: Tensor) -> bool:
    """Whether it has its numbers in memory, one after another: neither sparse nor quantised, nor without contents."""
    return tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized


def _shown(keys: dict[str, Any]) -> str:
    return some_of([safe_text(key, 40) for key in keys]) or "it is empty"


def _refusal(message: str) -> str:
    """Why the weights-only reader refused a pickle. Its own message suggests loading the file with all its code."""
    named = re.search(r"GLOBAL (\S{1,80})", message)
    what = f"code or objects of Python ({named[1]})" if named else "something that torch's weights-only reader refuses"
    return f"it holds {what} instead of only tensors; none of it was executed; save its state dict alone"


def _bound(num_bytes: int) -> None:
    """Limit memory beyond what torch has mapped already."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + num_bytes, mapped + num_bytes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
