"""torch's compiler stays unloaded until something compiles, and is the real one then."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a run does without --compile, in a process that has loaded nothing yet.
_A_RUN = """
import sys, tempfile
from pathlib import Path
from engine import Lab, RunSpec
from engine.paths import Folders
folder = Path(tempfile.mkdtemp())
spec = RunSpec("digits", "resnet20", epochs=1)
events = list(Lab(Folders(folder, folder, folder)).train(spec).events())
assert events[-1].status == "completed", events[-1]
"""
_IS_POSTPONED = (
    "from engine.lazy_compiler import is_postponed\nassert is_postponed() and 'torch._inductor' not in sys.modules\n"
)


def carry_out(script: str) -> str:
    done = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_run_and_its_forecast_load_no_compiler() -> None:
    carry_out(_A_RUN + _IS_POSTPONED)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param("import torch._dynamo.eval_frame", marks=pytest.mark.slow),
        *(
            pytest.param(other, marks=pytest.mark.slow)
            for other in (
                "torch._dynamo.reset()",
                "import torch._dynamo.utils; torch._dynamo.utils.counters",
                "from torch._dynamo import optimize",
                "from torch._dynamo.utils import counters",
                "from torch._dynamo.backends.registry import lookup_backend; torch._dynamo.backends.registry",
                "import torch._inductor.config",
                "torch.use_deterministic_algorithms(True)",
            )
        ),
    ],
)
def test_whoever_asks_for_more_gets_the_real_one(asked: str) -> None:
    carry_out(
        "import sys, engine, torch, torchvision\n"
        "torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], 0.1)\n"  # the stand-in was used before
        f"{_IS_POSTPONED}{asked}\n"
        "import torch._dynamo, torch._dynamo.utils\n"
        "from engine.lazy_compiler import is_postponed\n"
        "assert not is_postponed()\n"
        "assert torch._dynamo is sys.modules['torch._dynamo'] and torch._dynamo.__file__\n"
        "assert torch._dynamo.utils is sys.modules['torch._dynamo.utils']\n"
        "assert torch._dynamo.utils.counters is not None\n"
        "assert not torch._dynamo.is_compiling()\n"
        "import torch._dynamo.eval_frame\n"  # one module of each name, not a second one
        "assert torch._dynamo.optimize.__globals__ is vars(sys.modules['torch._dynamo.eval_frame'])\n"
    )


@pytest.mark.slow
def test_a_network_compiles_after_a_run_that_did_not() -> None:
    said = carry_out(
        _A_RUN
        + _IS_POSTPONED
        + "import torch\n"
        + "compiled = torch.compile(lambda x: (x.sin() + 1).sum(), backend='aot_eager', fullgraph=True)\n"
        + "print(float(compiled(torch.zeros(3))), torch._dynamo.utils.counters['stats']['unique_graphs'])\n"
    )
    assert said.split() == ["3.0", "1"]


@pytest.mark.slow
def test_where_torch_is_loaded_already_nothing_is_put_in_its_place() -> None:
    carry_out("import torch, torchvision, sys, engine\nfrom engine.lazy_compiler import is_postponed\n"
              "assert not is_postponed()")  # fmt: skip
