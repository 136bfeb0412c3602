"""What a setting affects is said once, at its field: every key is derived from that."""

from __future__ import annotations

import subprocess
import sys

import pytest

from engine.analysis.comparison import differing_settings
from engine.settings import setting
from engine.spec import RunSpec, affecting, settings_of

SPEC = RunSpec("digits", "resnet20")

# A setting that no part of reslab has heard of, in a process of its own: everything asks the class that it finds there.
_WITH_A_NEW_SETTING = """
import dataclasses
import engine.spec
from engine.settings import setting, settings_of

@dataclasses.dataclass(frozen=True, slots=True)
class RunSpec(engine.spec.RunSpec):
    width: int = setting(
        64, help="of the layers", group="model", affects=("images", "epoch", "step", "memory", "result"), low=1
    )

engine.spec.RunSpec = RunSpec
assert list(engine.spec.settings_of(RunSpec))[-1] == "width"

from engine.cli.parser import build_parser
from engine.data.loading import data_key
from engine.forecast.step_memory import memory_key
from engine.analysis.comparison import differing_settings
from engine.forecast.duration import estimate_run
from engine.records import RunSummary
from engine.shape import DataShape
from engine.training.autotune import autotune_key
from tui.screens.setup import _RECIPE

one, other = (RunSpec("digits", "resnet20", width=width) for width in (64, 65))
shape = DataShape(1, 8, 8, 10)
assert RunSpec.from_toml(other.to_toml()) == RunSpec.from_json(other.to_json()) == other
assert data_key(one) != data_key(other)
assert autotune_key(one, shape) != autotune_key(other, shape)
assert memory_key(one) != memory_key(other)
assert one.seed_group() != other.seed_group()
assert one.seed_group() == one.replace(seed=1).seed_group()
without = {name: value for name, value in one.to_dict().items() if name != "width"}  # as an older version recorded it
assert differing_settings([without, other.to_dict()]) == {"width": (64, 65)}
assert differing_settings([without, one.to_dict()]) == {}
record = RunSummary(1, "digits", "resnet20", "completed", 0.0, without, None, None, 100.0, 5.0, 120, None)
assert estimate_run(one, [record]).seconds == 5.0
assert estimate_run(other, [record]) is None
assert "width" in _RECIPE
assert build_parser().parse_args(["train", "digits", "resnet20", "--width", "65"]).width
"""


@pytest.mark.slow
def test_a_new_setting_is_known_to_every_key_form_option_and_comparison() -> None:
    done = subprocess.run((sys.executable, "-c", _WITH_A_NEW_SETTING), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_setting_has_to_say_what_it_affects() -> None:
    with pytest.raises(TypeError, match="affects"):
        setting(1, help="new", group="run")  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="a setting affects images, epoch, step, memory, result, not pace"):
        setting(1, help="new", group="run", affects=("pace",))  # type: ignore[arg-type]


def test_what_does_not_affect_the_result_sets_no_runs_apart() -> None:
    others = set(settings_of(RunSpec)) - set(affecting("result"))
    assert others == {"checkpoint_every"}
    rarely = SPEC.replace(checkpoint_every=600)
    assert differing_settings([SPEC.to_dict(), rarely.to_dict()]) == {}
    assert SPEC.seed_group() == rarely.seed_group()
    assert differing_settings([SPEC.to_dict(), {**SPEC.to_dict(), "gone": 1}]) == {"gone": (None, 1)}
