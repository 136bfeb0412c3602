"""`python -m engine.models.unpickle FROM.pth TO.safetensors`: reads an untrusted pickle in a process of its own.

Limits on memory and processor time are set before the file is opened. Exits with 0, or says in one line why not.
"""

from __future__ import annotations

import pickle
import re
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

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
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        return "it holds no state dict of names and tensors, as torch.save(model.state_dict()) writes"
    save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, target)
    return None


def _refusal(message: str) -> str:
    """Why the weights-only reader refused a pickle. Its own message suggests loading the file with all its code."""
    named = re.search(r"GLOBAL (\S{1,80})", message)
    what = f"code or objects of Python ({named[1]})" if named else "something that torch's weights-only reader refuses"
    return f"it holds {what} instead of only tensors; none of it was executed"


def _bound(num_bytes: int) -> None:
    """Limit memory beyond what torch has mapped already."""
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    statm = Path("/proc/self/statm")
    if statm.exists():
        mapped = int(statm.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + num_bytes, mapped + num_bytes))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
