"""The setting `normalization`: training, evaluation, prediction and a resumed run give the network the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from engine.control import RunControl
from engine.data.loading import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    data_key,
    imagenet_moments,
    load_dataset,
    moments_for,
)
from engine.data.measuring import Measured, moments_of
from engine.errors import SpecError
from engine.events import RunEnded, RunStarted
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.form import apply_form
from engine.normalization import Moments, read_moments, stated_moments
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.fakes import drain
from tests.running import run_until

pytestmark = pytest.mark.usefixtures("one_thread")
SPEC = RunSpec("digits", "resnet20", epochs=1, dtype="float32", normalization="0.5/0.25")


def started(folders: Folders, run: int) -> RunStarted:
    found = Lab(folders).run(run).started
    assert found is not None
    return found


def test_values_are_read_for_all_channels_or_for_each() -> None:
    cifar = "0.4914,0.4822,0.4465/0.2470,0.2435,0.2616"
    assert read_moments(cifar) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    assert stated_moments(cifar, 3) == read_moments(cifar)
    assert stated_moments("0.5/0.25", 3) == ((0.5,) * 3, (0.25,) * 3)
    assert [read_moments(name) for name in ("auto", "dataset", "imagenet", "none")] == [None] * 4
    with pytest.raises(SpecError, match="normalization: 3 values for images with 1 channel; expected one value"):
        stated_moments(cifar, 1)


def test_each_name_means_what_it_says(folders: Folders) -> None:
    train = drain(load_dataset(SPEC, folders, RunControl()))[1].train

    def of(name: str, weights: str = "random") -> Moments:
        return moments_for(SPEC.replace(normalization=name, weights=weights), Measured(train, ""))

    assert of("dataset") == of("auto") == of("dataset", "x.pth") == moments_of(train)
    assert of("imagenet") == of("auto", "x.pth") == of("imagenet", "x.pth") == imagenet_moments(1)
    assert imagenet_moments(3) == (IMAGENET_MEAN, IMAGENET_STD)
    assert of("none") == ((0.0,), (1.0,))
    assert of("0.5/0.25") == ((0.5,), (0.25,))
    assert data_key(SPEC) != data_key(SPEC.replace(normalization="0.5/0.2"))


@pytest.mark.slow
def test_a_run_is_normalised_as_stated_throughout(folders: Folders, tmp_path: Path) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits

    ended = Lab(folders).train(SPEC).wait()
    assert ended is not None
    assert (started(folders, 1).mean, started(folders, 1).std) == ((0.5,), (0.25,))

    pixels = (load_digits().images[7] * (255 / 16)).round().astype("uint8")
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    (guessed,) = Lab(folders).predict(1, [tmp_path / "digit.png"])
    network = build_model(RunSpec("digits", "resnet20"), DataShape(1, 8, 8, 10)).eval()
    apply_form(network, {"shortcut_padding": "end"})
    (file,) = folders.run_folder(1).glob("step-*.safetensors")
    network.load_state_dict(
        {name.removeprefix("model."): value for name, value in load_file(file).items() if name.startswith("model.")}
    )
    with torch.no_grad():
        confidences = network((torch.from_numpy(pixels).float()[None, None] / 255 - 0.5) / 0.25).softmax(1)
    assert guessed.guesses[0].confidence == pytest.approx(confidences.max().item(), abs=1e-5)

    again = SPEC.replace(weights="run:1")
    assert _final(folders, again.replace(normalization="auto")) == ended.final  # as that run had it
    assert _final(folders, again) == ended.final
    assert _final(folders, again.replace(normalization="dataset")) != ended.final
    assert started(folders, 4).mean != (0.5,)


def _final(folders: Folders, spec: RunSpec) -> Any:
    ended = Lab(folders).evaluate(spec).wait()
    assert ended is not None
    assert ended.error is None
    return ended.final


@pytest.mark.slow
def test_a_resumed_run_is_normalised_as_before(folders: Folders) -> None:
    stopped = run_until(RunStarted, folders, SPEC)
    assert isinstance(stopped[-1], RunEnded)
    events = list(Lab(folders).resume(1).events())
    assert next(event.mean for event in events if isinstance(event, RunStarted)) == (0.5,)
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "completed"


def test_values_for_other_channels_are_refused_before_a_run_is_recorded(folders: Folders) -> None:
    with pytest.raises(SpecError, match="3 values for images with 1 channel"):
        Lab(folders).train(SPEC.replace(normalization="1,2,3/1,2,3")).wait()
    assert Lab(folders).runs() == []
