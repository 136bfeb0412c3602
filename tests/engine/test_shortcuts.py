"""Weights of a run, and of somebody's CIFAR ResNet: into the function that they were trained for, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.control import RunControl
from engine.datasets.loading import imagenet_moments
from engine.datasets.splits import stratified
from engine.errors import ModelError, SpecError
from engine.events import Evaluated, Event, RunEnded, RunStarted
from engine.models.building import build_model
from engine.models.form import apply_form, form_of
from engine.paths import Places
from engine.predicting import predict
from engine.results.store import Store
from engine.runs import Lab, resume, run
from engine.shape import DataShape
from engine.spec import RunSpec

GREY = DataShape(1, 8, 8, 10)


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


@pytest.fixture(
    scope="module",
    params=["both-sides", *(pytest.param(form, marks=pytest.mark.slow) for form in ("end", "none"))],
)
def theirs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, float]:
    """How they pad, their weights after a short training, and their own accuracy on the test images."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two would wait for each other where others are at work
    network, (images, labels, test_images, test_labels) = _Theirs(request.param), _digits()
    optimizer = torch.optim.SGD(network.parameters(), 0.05, momentum=0.9)
    for _ in range(3):
        for start in range(0, 1400, 56):
            rows = slice(start, start + 56)
            optimizer.zero_grad()
            torch.autograd.backward(F.cross_entropy(network(images[rows]), labels[rows]))
            optimizer.step()
    with torch.no_grad():
        accuracy = (network.eval()(test_images).argmax(1) == test_labels).float().mean().item()
    torch.set_num_threads(threads)
    path = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save(network.state_dict(), path)
    return request.param, path, accuracy


def spec_with(path: Path, model: str = "resnet20", **settings: Any) -> RunSpec:
    return RunSpec("digits", model, epochs=1, dtype="float32", weights=str(path), **settings)


def begun(places: Places, spec: RunSpec) -> list[Event]:
    """Until the test images were looked at before the first step."""
    control, events = RunControl(), list[Event]()
    for event in run(spec, Lab(places), control):
        events.append(event)
        if isinstance(event, Evaluated):
            control.stop()
    return events


def accuracy_of(events: list[Event]) -> float:
    return next(event.metrics.accuracy for event in events if isinstance(event, Evaluated))


def changes_of(events: list[Event]) -> tuple[str, ...]:
    return next(event.changes for event in events if isinstance(event, RunStarted))


def error_of(events: list[Event]) -> str:
    assert isinstance(events[-1], RunEnded)
    assert events[-1].status == "failed"
    return str(events[-1].error)


def test_their_network_is_told_by_its_statistics(places: Places, theirs: tuple[str, Path, float]) -> None:
    padding, path, accuracy = theirs
    assert accuracy > 0.5  # it has learnt something, so that the wrong function would show
    if padding == "none":
        assert "are of a network without shortcuts" in error_of(begun(places, spec_with(path)))
        found = begun(places, spec_with(path, "plain20"))
        assert not [change for change in changes_of(found) if "shortcuts" in change]
    else:
        found = begun(places, spec_with(path))
        where = {"end": "at the end", "both-sides": "on both sides"}[padding]
        (said,) = (change for change in changes_of(found) if "shortcuts" in change)
        assert said.startswith(f"shortcuts padded {where}: ")
        assert said.endswith("batch-norms that tell agree")
        assert "are of a network with shortcuts" in error_of(begun(places, spec_with(path, "plain20")))
        other = "end" if padding == "both-sides" else "both-sides"
        wrong = begun(places, spec_with(path, shortcut_padding=other))
        assert accuracy_of(wrong) < accuracy - 0.1
        assert accuracy_of(begun(places, spec_with(path, shortcut_padding=padding))) == accuracy_of(found)
    assert accuracy_of(found) == pytest.approx(accuracy, abs=1e-6)


def test_weights_that_do_not_tell_need_the_setting(places: Places, tmp_path: Path) -> None:
    """Statistics that no training has made."""
    path = tmp_path / "fresh.pth"
    torch.save(_Theirs("end").state_dict(), path)
    said = error_of(begun(places, spec_with(path)))
    assert "do not tell where their shortcuts put the zeros" in said
    assert "set shortcut padding to end or both-sides" in said
    assert changes_of(begun(places, spec_with(path, shortcut_padding="both-sides")))


def test_only_networks_that_pad_take_the_setting() -> None:
    for model in ("plain20", "resnet18", "vgg11"):
        with pytest.raises(SpecError, match="leave it at auto"):
            RunSpec("digits", model, shortcut_padding="end")


def test_the_form_is_kept_by_checkpoints_resumes_and_predictions(
    places: Places, theirs: tuple[str, Path, float], tmp_path: Path
) -> None:
    padding, path, _ = theirs
    if padding != "both-sides":
        pytest.skip("the form that is not the default")
    events = list(run(spec_with(path), Lab(places), RunControl()))
    assert isinstance(events[-1], RunEnded)
    assert events[-1].final is not None
    path.rename(path.with_suffix(".gone"))  # nothing reads it again
    try:
        with Store(places.database) as store:
            details = store.details(1)
        assert details.weights is not None
        file = places.run_folder(1) / details.weights.file
        from PIL import Image
        from sklearn.datasets import load_digits

        image = tmp_path / "digit.png"
        Image.fromarray((load_digits().images[7] * (255 / 16)).round().astype("uint8")).save(image)
        from_disk = next(predict(details, places, [image]))
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
            normalised = (pixels - details.started["mean"][0]) / details.started["std"][0]
            with torch.no_grad():
                confidences[form] = network(normalised[None, None]).softmax(1).max().item()
        assert from_disk.guesses[0].confidence == pytest.approx(confidences["both-sides"], abs=1e-4)
        assert from_disk.guesses[0].confidence != pytest.approx(confidences["end"], abs=1e-4)
        # As weights of another run: of whatever padding the file says, without measuring.
        assert "weights of run 1" in changes_of(begun(places, spec_with(file)))
        assert accuracy_of(begun(places, spec_with(file))) == pytest.approx(events[-1].final.accuracy)
        with pytest.raises(ModelError, match="with shortcuts padded on both sides; set shortcut padding to auto"):
            build_model(spec_with(file, shortcut_padding="end"), GREY)
    finally:
        path.with_suffix(".gone").rename(path)


def _metadata(file: Path) -> str:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return str(opened.metadata()["reslab"])


def test_a_run_that_is_cut_off_resumes_in_its_form(places: Places, theirs: tuple[str, Path, float]) -> None:
    padding, path, _ = theirs
    if padding != "both-sides":
        pytest.skip("the form that is not the default")
    whole = list(run(spec_with(path).replace(epochs=2), Lab(places), RunControl()))
    control = RunControl()
    for event in run(spec_with(path).replace(epochs=2), Lab(places), control):
        if isinstance(event, Evaluated) and event.epoch == 1:
            control.stop()
    *_, ended = resume(2, Lab(places), RunControl())
    assert isinstance(ended, RunEnded)
    assert isinstance(whole[-1], RunEnded)
    assert ended.final == whole[-1].final


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunEnded]:
    """The weights file of a run, and how the run ended."""
    root = tmp_path_factory.mktemp("own")
    places = Places(root / "home", root / "data", root / "cache")
    spec = RunSpec("digits", "resnet18", epochs=1, dtype="float32", stem="small")
    *_, ended = run(spec, Lab(places), RunControl())
    with Store(places.database) as store:
        weights = store.details(1).weights
    assert weights is not None
    assert isinstance(ended, RunEnded)
    return places.run_folder(1) / weights.file, ended


def test_a_runs_own_weights_are_taken_whole(places: Places, own: tuple[Path, RunEnded]) -> None:
    path, ended = own
    events = begun(places, spec_with(path, "resnet18", stem="small"))
    assert "weights of run 1" in changes_of(events)
    assert ended.final is not None
    # The last layer is kept, for the classes are as many, and the images are normalised as they were.
    assert next(event for event in events if isinstance(event, Evaluated)).metrics == ended.final


def test_a_runs_own_weights_are_fitted_to_other_images(own: tuple[Path, RunEnded]) -> None:
    path, _ = own
    network = build_model(spec_with(path, "resnet18", stem="small"), DataShape(3, 32, 32, 2))
    theirs = load_file(path)
    assert network.get_parameter("conv1.weight").sum(1).allclose(theirs["model.conv1.weight"][:, 0], atol=1e-6)
    assert network.get_parameter("layer4.1.conv2.weight").equal(theirs["model.layer4.1.conv2.weight"])
    assert network.get_parameter("fc.weight").shape == (2, 512)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [
        ("resnet34", {"stem": "small"}, "of run 1, a resnet18; expected a resnet34"),
        ("resnet18", {"stem": "small", "norm": "group"}, "with norm=batch; expected norm=group"),
        ("resnet18", {"stem": "imagenet"}, "with stem=small, and these images get stem=imagenet: set stem to small"),
    ],
)
def test_a_runs_own_weights_for_something_else_are_refused(
    own: tuple[Path, RunEnded], model: str, settings: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ModelError, match=expected):
        build_model(spec_with(own[0], model, **settings), GREY)


@pytest.mark.parametrize(
    "header", ["", "[]", "{}", '{"spec": {"model": 3}}', '{"spec": {"model": "resnet18"}, "form": 1}']
)
def test_a_header_that_is_none_of_a_run_is_refused(tmp_path: Path, header: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"model.fc.bias": torch.zeros(10)}, path, {"reslab": header})
    with pytest.raises(ModelError, match="does not say which run of reslab it is of"):
        build_model(spec_with(path, "resnet18"), GREY)


def test_googlenets_own_weights_say_whether_it_scales_its_input(tmp_path: Path) -> None:
    """A run from random weights did not; weights that are given make torchvision's do."""
    shape = DataShape(3, 32, 32, 10)
    network = build_model(RunSpec("cifar10", "googlenet"), shape)
    assert form_of(network) == {"transform_input": False}
    state = {f"model.{name}": value for name, value in network.state_dict().items()}
    for number, (form, spec) in enumerate(
        (({"form": form_of(network)}, {"weights": "x.pth"}), ({}, {"weights": "random"}), ({}, {"weights": "imagenet"}))
    ):
        path = tmp_path / f"{number}.safetensors"
        header = {"run": 1, "spec": {"model": "googlenet", **spec}, **form}
        save_file({name: value.contiguous() for name, value in state.items()}, path, {"reslab": json.dumps(header)})
        found = build_model(RunSpec("cifar10", "googlenet", weights=str(path)), shape)
        assert form_of(found) == {"transform_input": number == 2}
