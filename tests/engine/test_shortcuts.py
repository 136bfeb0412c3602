"""Weights of a run, and of somebody's CIFAR ResNet: into the function that they were trained for, or not at all."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.combinations import are_twins, with_twin
from engine.control import RunControl
from engine.data.images import ImageData
from engine.data.loading import imagenet_moments, load_dataset
from engine.data.splits import stratified
from engine.device import Placement
from engine.errors import ModelError, SpecError
from engine.events import Evaluated, Event, RunEnded, RunStarted
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.form import apply_form, form_of
from engine.models.measured_shortcuts import measure_shortcuts
from engine.paths import Folders
from engine.predicting import predict
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.step.learner import build_learner
from engine.store.store import Store
from engine.training.foreign_shortcuts import settle_shortcuts
from tests.running import run_until

GREY = DataShape(1, 8, 8, 10)
pytestmark = pytest.mark.usefixtures("one_thread")
CPU = Placement(torch.device("cpu"), torch.float32, torch.contiguous_format, "a test")


class _TheirBlock(nn.Module):
    """As written by somebody else, after the paper."""

    def __init__(self, before: int, after: int, stride: int, pad: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.before, self.after, self.pad = before, after, pad

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.pad == "none":
            return F.relu(y)
        if self.before != self.after:
            new = self.after - self.before
            zeros = x.new_zeros(len(x), new, *y.shape[2:])
            x = x[:, :, ::2, ::2]
            halves = zeros[:, : new // 2], zeros[:, new // 2 :]
            x = torch.cat([x, zeros] if self.pad == "end" else [halves[0], x, halves[1]], dim=1)
        return F.relu(y + x)


class _Theirs(nn.Module):
    """ResNet-20 for images of three channels."""

    def __init__(self, pad: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        widths = (16, 16, 32, 64)
        for stage in (1, 2, 3):
            before, after = widths[stage - 1], widths[stage]
            blocks = [_TheirBlock(before, after, 1 + (stage > 1), pad)]
            blocks += [_TheirBlock(after, after, 1, pad) for _ in range(2)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))  # type: ignore[operator]
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images with three equal channels, and labels: to train on and to test with, split as reslab does.

    Normalised as reslab takes it that somebody's weights were fed: by ImageNet's values.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy((bunch.images * (255 / 16)).round() / 255).float()[:, None]
    labels = torch.from_numpy(bunch.target).long()
    train, test = (torch.from_numpy(chosen) for chosen in stratified(bunch.target, 0.2, seed=0, part="test"))
    mean, std = (values[0] for values in imagenet_moments(1))
    images = ((pixels - mean) / std).expand(-1, 3, -1, -1)
    return images[train], labels[train], images[test], labels[test]


def _trained(pad: str, epochs: int) -> _Theirs:
    torch.manual_seed(0)
    network, (images, labels, _, _) = _Theirs(pad), _digits()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(epochs):
        for start in range(0, 1400, 56):
            rows = slice(start, start + 56)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images[rows]), labels[rows]))
            optimizer.step()
    return network


@pytest.fixture(
    scope="module",
    params=["both-sides", *(pytest.param(form, marks=pytest.mark.slow) for form in ("end", "none"))],
)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, float]:
    """How they pad, their weights after a short training, and their own accuracy on the test images."""
    network = _trained(request.param, epochs=4)
    _, _, test_images, test_labels = _digits()
    with torch.no_grad():
        accuracy = (network.eval()(test_images).argmax(1) == test_labels).float().mean().item()
    path = tmp_path_factory.mktemp("theirs") / "theirs.safetensors"
    save_file(network.state_dict(), path)
    torch.save(network.state_dict(), path.with_suffix(".pth"))
    return request.param, path, accuracy


def spec_with(path: Path, model: str = "resnet20", **settings: Any) -> RunSpec:
    return RunSpec("digits", model, epochs=1, dtype="float32", weights=str(path), **settings)


def begun(folders: Folders, spec: RunSpec) -> list[Event]:
    """Until the test images were looked at before the first step."""
    return run_until(Evaluated, folders, spec)


def accuracy_of(events: list[Event]) -> float:
    return next(event.metrics.accuracy for event in events if isinstance(event, Evaluated))


def notes_of(events: list[Event]) -> tuple[str, ...]:
    return next(event.notes for event in events if isinstance(event, RunStarted))


def error_of(events: list[Event]) -> str:
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "failed"
    return str(events[-1].error)


def test_their_network_is_told_by_its_statistics(folders: Folders, theirs: tuple[str, Path, float]) -> None:
    padding, path, accuracy = theirs
    assert accuracy > 0.5  # it has learnt something, so that the wrong function would show
    if padding == "none":
        for stated in ("auto", "end"):
            said = error_of(begun(folders, spec_with(path, shortcut_padding=stated)))
            assert "are from a network without shortcuts" in said
            assert "choose plain20" in said
        found = begun(folders, spec_with(path, "plain20"))
        line, said = notes_of(found)
        assert line.startswith("weights theirs.safetensors: 97 tensors kept; fc kept: 10 classes, names unknown")
        assert said.startswith("weights of a network without shortcuts: ")
    else:
        found = begun(folders, spec_with(path.with_suffix(".pth")))  # as it is handed about; read by another process
        where = {"end": "at the end", "both-sides": "on both sides"}[padding]
        line, said = notes_of(found)
        assert line.startswith("weights theirs.pth: 97 tensors kept; fc kept: 10 classes, names unknown")
        assert said.startswith(f"shortcuts padded {where}: 10 of the 10 batch-norms")
        refusal = error_of(begun(folders, spec_with(path, "plain20")))
        assert "are from a network with shortcuts" in refusal
        assert "choose resnet20" in refusal
        other = "end" if padding == "both-sides" else "both-sides"
        wrong = begun(folders, spec_with(path, shortcut_padding=other))
        assert accuracy_of(wrong) < accuracy - 0.1
        assert notes_of(wrong)[2].startswith(f"the weights say {where} instead: ")
        right = begun(folders, spec_with(path, shortcut_padding=padding))
        assert accuracy_of(right) == accuracy_of(found)
        assert notes_of(right)[2].startswith("the weights confirm that: ")
    assert accuracy_of(found) == pytest.approx(accuracy, abs=1e-6)


def test_weights_that_do_not_tell_need_the_setting(folders: Folders, tmp_path: Path) -> None:
    """Statistics that no training has made."""
    path = tmp_path / "fresh.safetensors"
    save_file(_Theirs("end").state_dict(), path)
    said = error_of(begun(folders, spec_with(path)))
    assert "do not show where their shortcuts put the zeros" in said
    assert "set shortcut padding to end or both-sides" in said
    stated = notes_of(begun(folders, spec_with(path, shortcut_padding="both-sides")))
    assert stated[1] == "shortcuts padded on both sides"
    assert stated[2].startswith("the weights do not show whether that is right: ")
    _, said = notes_of(begun(folders, spec_with(path, "plain20")))
    assert said.startswith("weights of a network that may have shortcuts: ")


def test_the_least_bad_form_is_not_taken_for_the_right_one() -> None:
    """Statistics of a short training and images of another kind: each batch-norm is nearest to a plain network's."""
    network = build_model(RunSpec("cifar10", "resnet20"), DataShape(3, 32, 32, 10))
    network.load_state_dict(_trained("both-sides", epochs=1).state_dict())
    framed = F.pad(_digits()[0][:128], (10,) * 4, value=-2.0)
    assert measure_shortcuts(network, framed).form is None


def test_what_is_measured_is_the_training_images_alone(theirs: tuple[str, Path, float], folders: Folders) -> None:
    _, path, _ = theirs
    spec = spec_with(path, "plain20" if theirs[0] == "none" else "resnet20")
    loading = load_dataset(spec, folders, RunControl())
    try:
        while True:
            next(loading)
    except StopIteration as end:
        data: ImageData = end.value
    blind = dataclasses.replace(data, test=None, val=None)  # type: ignore[arg-type]
    measured = [
        settle_shortcuts(build_learner(spec, data.shape, (data.mean, data.std), CPU), one).notes
        for one in (data, blind, blind)
    ]
    assert measured[0]
    assert measured[0] == measured[1] == measured[2]


def test_only_networks_that_pad_and_their_twins_take_the_setting() -> None:
    for model in ("plain18", "resnet18", "vgg11"):
        with pytest.raises(SpecError, match="leave it at auto"):
            RunSpec("digits", model, shortcut_padding="end")
    plain = build_model(RunSpec("digits", "plain20", shortcut_padding="both-sides"), GREY)
    assert form_of(plain) == {}
    assert plain.notes == ("plain20 has no shortcuts, so shortcut padding changes nothing",)


def test_a_network_whose_padding_is_stated_has_its_twin() -> None:
    spec = RunSpec("digits", "resnet20", shortcut_padding="both-sides")
    assert [one.model for one in with_twin(spec)] == ["resnet20", "plain20"]
    for plain in (RunSpec("digits", "plain20"), spec.replace(model="plain20")):
        assert are_twins(spec, plain)
        assert are_twins(plain, spec)
    assert not are_twins(spec, RunSpec("digits", "plain20", seed=1))


def test_the_form_is_kept_by_checkpoints_resumes_and_predictions(
    folders: Folders, theirs: tuple[str, Path, float], tmp_path: Path
) -> None:
    padding, path, _ = theirs
    if padding != "both-sides":
        pytest.skip("the form that is not the default")
    events = list(Lab(folders).train(spec_with(path)).events())
    assert isinstance(events[-1], RunEnded)
    assert events[-1].final is not None
    path.rename(path.with_suffix(".gone"))  # nothing reads it again
    try:
        with Store(folders.database) as store:
            details = store.details(1)
        assert details.weights is not None
        file = folders.run_folder(1) / details.weights.file
        from PIL import Image
        from sklearn.datasets import load_digits

        image = tmp_path / "digit.png"
        Image.fromarray((load_digits().images[7] * (255 / 16)).round().astype("uint8")).save(image)
        from_disk = next(predict(details, folders, [image]))
        header = json.loads(_metadata(file))
        assert header["form"] == {"shortcut_padding": "both-sides"}
        network = build_model(RunSpec("digits", "resnet20"), GREY).eval()
        state = {name.removeprefix("model."): value for name, value in load_file(file).items() if "model." in name}
        network.load_state_dict(state)
        confidences = {}
        for form in ("both-sides", "end"):
            apply_form(network, {"shortcut_padding": form})
            assert form_of(network) == {"shortcut_padding": form}
            pixels = torch.from_numpy((load_digits().images[7] * (255 / 16)).round() / 255).float()
            assert details.started is not None
            normalised = (pixels - details.started.mean[0]) / details.started.std[0]
            with torch.no_grad():
                confidences[form] = network(normalised[None, None]).softmax(1).max().item()
        assert from_disk.guesses[0].confidence == pytest.approx(confidences["both-sides"], abs=1e-4)
        assert from_disk.guesses[0].confidence != pytest.approx(confidences["end"], abs=1e-4)
        # As weights of another run: of whatever padding the file says, without measuring.
        line = "weights of run 1: 97 tensors kept; fc kept: the same 10 classes"
        assert notes_of(begun(folders, spec_with(file))) == (line, "shortcuts padded on both sides")
        assert accuracy_of(begun(folders, spec_with(file))) == pytest.approx(events[-1].final.accuracy)
        with pytest.raises(ModelError, match="with shortcuts padded on both sides; set shortcut padding to auto"):
            build_model(spec_with(file, shortcut_padding="end"), GREY)
    finally:
        path.with_suffix(".gone").rename(path)


def _metadata(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return str(opened.metadata()["reslab"])


@pytest.mark.slow
def test_a_run_that_is_cut_off_resumes_in_its_form(folders: Folders, theirs: tuple[str, Path, float]) -> None:
    padding, path, _ = theirs
    if padding != "both-sides":
        pytest.skip("the form that is not the default")
    whole = list(Lab(folders).train(spec_with(path).replace(epochs=2)).events())
    run_until(
        lambda event: isinstance(event, Evaluated) and event.epoch == 1, folders, spec_with(path).replace(epochs=2)
    )
    resumed = list(Lab(folders).resume(2).events())
    assert notes_of(resumed) == notes_of(whole)
    ended = resumed[-1]
    assert isinstance(ended, RunEnded)
    assert isinstance(whole[-1], RunEnded)
    assert ended.final == whole[-1].final
