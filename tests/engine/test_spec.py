"""RunSpec: checked when it is made, unchanged through JSON and TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import SpecError
from engine.settings import Setting, settings_of
from engine.spec import RunSpec
from engine.spec_files import read_spec_file


def _values(item: Setting) -> st.SearchStrategy[Any]:
    if item.choices:
        return st.sampled_from(item.choices)
    if item.kind is bool:
        return st.booleans()
    if item.kind is str:
        return st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
    low = item.low if item.low is not None else item.above or 0
    high = item.high if item.high is not None else item.below or 100
    if item.kind is int:
        numbers: st.SearchStrategy[Any] = st.integers(int(low), int(high))
    else:
        numbers = st.floats(low, high, exclude_min=item.above is not None, exclude_max=item.below is not None)
    return st.none() | numbers if item.optional else numbers


@st.composite
def specs(draw: st.DrawFn) -> RunSpec:
    values = {
        name: draw(_values(item)) for name, item in settings_of(RunSpec).items() if name not in ("dataset", "model")
    }
    values["warmup_epochs"] = draw(st.floats(0, values["epochs"], exclude_max=True)) if values["epochs"] else 0.0
    values["normalization"] = draw(st.sampled_from(["auto", "dataset", "imagenet", "none", "0.5/0.25", "0,1,2/1,1,1"]))
    values["nesterov"] = values["nesterov"] and values["momentum"] > 0
    if values["weights"] == "random":
        values["freeze"], values["backbone_rate"], values["head"] = "none", 1.0, "auto"
    values["columns"] = draw(st.sampled_from(["auto", "path=a b, label=ü", "path=x,label=y,split=]"]))
    values["shortcut_padding"] = "auto"  # the others are for the CIFAR networks
    dataset = draw(st.sampled_from(["digits", "mnist", "folder:/tmp/[red]x \x1b]52;c;x\x07"]))
    return RunSpec(dataset, draw(st.sampled_from(["resnet18", "wide_resnet50_2"])), **values)


@given(specs())
def test_json_and_toml_give_the_same_spec_back(spec: RunSpec) -> None:
    assert RunSpec.from_json(spec.to_json()) == spec
    assert RunSpec.from_toml(spec.to_toml()) == spec


@given(specs(), st.integers(0, 2**32 - 1))
def test_a_seed_group_is_a_spec_without_its_seed(spec: RunSpec, seed: int) -> None:
    assert spec.replace(seed=seed).seed_group() == spec.seed_group()
    other = 11 if spec.epochs != 11 else 12
    assert spec.replace(epochs=other, warmup_epochs=0.0).seed_group() != spec.seed_group()


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"epochs": -1}, "epochs", "from 0 to 100,000"),
        ({"head": "keep"}, "head", "needs trained weights"),
        ({"weights": "run:"}, "weights", "expected run:NUMBER"),
        ({"weights": "run:0"}, "weights", "expected run:NUMBER"),
        ({"weights": "run:1.5"}, "weights", "expected run:NUMBER"),
        *(
            ({"normalization": text}, "normalization", "expected auto, dataset, imagenet, none, or MEAN/STD")
            for text in ("", "cifar", "0.5", "0.5/0", "0.5/-1", "nan/1", "0/inf", "1,2/3", "1/2/3", "/")
        ),
        ({"epochs": 2.5}, "epochs", "a whole number"),
        ({"epochs": True}, "epochs", "a whole number"),
        ({"learning_rate": 0.0}, "learning_rate", "above 0"),
        ({"learning_rate": float("nan")}, "learning_rate", "a number"),
        ({"momentum": 1.0}, "momentum", "below 1"),
        ({"optimizer": "lion"}, "optimizer", "sgd, adam, adamw"),
        ({"nesterov": True, "momentum": 0.0}, "nesterov", "momentum above 0"),
        ({"warmup_epochs": 10.0}, "warmup_epochs", "less than the 10 epochs"),
        ({"dataset": "mnst"}, "dataset", "did you mean mnist?"),
        ({"model": "resnet19"}, "model", "did you mean"),
        ({"dataset": "folder:"}, "dataset", "needs a path"),
        ({"image_size": 3}, "image_size", "from 4 to 1,024"),
    ],
)
def test_a_bad_value_is_refused_at_its_field(change: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(SpecError, match=None) as refused:
        RunSpec(**{"dataset": "digits", "model": "resnet18", **change})
    assert refused.value.field == field
    assert says in str(refused.value)


def test_a_path_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(SpecError, match="is not Unicode"):
        RunSpec("folder:/tmp/\udcff", "resnet18")


def test_an_unknown_setting_names_those_that_there_are() -> None:
    with pytest.raises(SpecError, match="unknown setting 'lr': there are dataset, model, epochs"):
        RunSpec.from_mapping({"dataset": "digits", "model": "resnet18", "lr": 1})


def test_a_file_that_is_no_toml_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("epochs: 10")
    with pytest.raises(SpecError, match="is not TOML"):
        read_spec_file(tmp_path / "bad.toml")
    with pytest.raises(SpecError, match="cannot read"):
        read_spec_file(tmp_path / "none.toml")


@pytest.mark.parametrize("name", list(settings_of(RunSpec)))
def test_every_setting_is_described(name: str) -> None:
    item = settings_of(RunSpec)[name]
    assert len(item.help) > 5
    assert item.expected
    assert item.group in ("data", "model", "recipe", "run")
