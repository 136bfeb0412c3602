"""Networks of the user's own: what goes wrong in them is a sentence, and their runs are runs like all others."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from engine.catalog.models import describe_changes, find_model, short_model
from engine.catalog.own_models import absolute_model
from engine.errors import CheckpointError, ModelError, ReslabError, SpecError
from engine.lab import Lab
from engine.models.building import build_model
from engine.models.whole import check_model, fingerprint
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.killing import killed_resumed_and_compared
from tests.own_files import DATA, LAYERS, NET, write

GREY = DataShape(1, 8, 8, 10)
pytestmark = pytest.mark.usefixtures("one_thread")


def spec_of(folder: Path, model: str = "net.py:Net", **changes: object) -> RunSpec:
    for name, text in (("net.py", NET), ("net.toml", LAYERS), ("data.py", DATA)):
        if not (folder / name).exists():
            write(folder / name, text)
    settings = {"epochs": 1, "batch_size": 32, **changes}
    return RunSpec(f"code:{folder}/data.py:load", f"{folder}/{model}", **settings)  # type: ignore[arg-type]


def test_a_path_is_a_network_and_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_model("./net.py:Net") == f"{tmp_path}/net.py:Net"
    assert absolute_model("net.toml") == f"{tmp_path}/net.toml"
    assert absolute_model("resnet18") == "resnet18"
    info = find_model("./net.py:Net")  # nothing is opened
    assert (info.origin, info.short_name, info.num_parameters) == ("code", "net.py:Net", None)
    assert short_model(f"{tmp_path}/net.py:Net") == "net.py:Net"
    assert describe_changes(info, GREY, "own") == ("built for 1 channel and 10 classes",)
    with pytest.raises(SpecError, match=r"after a colon, its function or class: net\.py:Net"):
        RunSpec("digits", "net.py")
    with pytest.raises(SpecError, match="own normalisation"):
        RunSpec("digits", "net.py:Net", norm="group")


FAULTS = {
    "no file": (None, "no file .*net.py; expected a Python file with Net"),
    "syntax": ("def Net(:\n", r"net.py, line 1: SyntaxError"),
    "import": ("import torch\n\nimport nosuchmodule\n", r"net.py, line 3: ModuleNotFoundError: No module named"),
    "no name": ("def net(): ...\n", "has no function or class Net; it has net"),
    "signature": ("\n\ndef Net(classes): ...\n", r"net.py:Net, line 3: expected .* takes num_classes and in_channels"),
    "nothing": ("def Net(num_classes, in_channels): ...\n", r"Net returned nothing; expected a torch.nn.Module"),
    "nothing to train": (
        "from torch import nn\ndef Net(num_classes, in_channels): return nn.Flatten()\n", "without trainable parameters"
    ),
    "constructor": (
        "def Net(num_classes, in_channels):\n    return 1 / 0\n", r"net.py, line 2: ZeroDivisionError: division by zero"
    ),
    "exit": ("raise SystemExit('bye')\n", "net.py, line 1: SystemExit: bye"),
    "forward": (NET.replace("self.head(F", "self.gone(F"), r"net.py, line 16: AttributeError: 'Net' object has no"),
    "shape": (NET.replace("num_classes)", "7)"), r"Net, line 6: for two images of 8×8×1 it returned float32 values of "
              r"shape \(2, 7\); expected a tensor \(2, 10\)"),
    "tuple": (NET.replace("return self.head", "return 1, self.head"), "returned a tuple; expected a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_ones_code_is_one_sentence_with_file_and_line(
    fault: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text, words = FAULTS[fault]
    if text is not None:
        write(tmp_path / "net.py", text)
    with caplog.at_level(logging.ERROR, "reslab"), pytest.raises(ModelError, match=words) as refused:
        check_model(RunSpec("digits", f"{tmp_path}/net.py:Net"), GREY)
    assert "\n" not in str(refused.value)
    if "the traceback is in reslab.log" in str(refused.value):
        assert any("Traceback" in (record.exc_text or "") for record in caplog.records) or "Traceback" in caplog.text


def test_a_refused_network_leaves_no_run(tmp_path: Path, folders: Folders) -> None:
    write(tmp_path / "net.py", FAULTS["forward"][0] or "")
    with pytest.raises(ModelError, match="line 16"):
        Lab(folders).train(RunSpec("digits", f"{tmp_path}/net.py:Net")).wait()
    assert Lab(folders).runs() == []


def test_a_fault_in_the_middle_of_a_run_names_file_and_line(tmp_path: Path, folders: Folders) -> None:
    late = NET.replace(
        "        x = F.relu", "        assert not self.training, 'no training today'\n        x = F.relu"
    )
    write(tmp_path / "net.py", late)
    ended = Lab(folders).train(spec_of(tmp_path)).wait()
    assert ended is not None
    assert ended.status == "failed"
    assert "net.py, line 14: AssertionError: no training today" in str(ended.error)
    assert "no training today" in folders.log.read_text()


def test_what_a_network_prints_stays_out_of_the_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "net.py", "print('hello')\n" + NET)
    build_model(RunSpec("digits", f"{tmp_path}/net.py:Net"), GREY)
    out, err = capsys.readouterr()
    assert (out, err) == ("", "hello\n")


def test_it_imports_from_beside_it_and_is_run_again_once_it_changes(tmp_path: Path) -> None:
    write(tmp_path / "widths_of_mine.py", "WIDTH = 5\n")
    file = write(tmp_path / "net.py", "from widths_of_mine import WIDTH\n" + NET.replace("8", "WIDTH"))
    spec = RunSpec("digits", f"{file}:Net")
    assert build_model(spec, GREY).get_parameter("layer1.weight").shape[0] == 5
    before = fingerprint(spec.model)
    write(file, NET.replace("8", "6"))
    assert build_model(spec, GREY).get_parameter("layer1.weight").shape[0] == 6
    assert before != fingerprint(spec.model) != ""


def test_image_size_is_passed_to_those_that_take_it(tmp_path: Path) -> None:
    file = write(
        tmp_path / "net.py", NET.replace("in_channels):", "in_channels, image_size):\n        1 / image_size", 1)
    )
    with pytest.raises(ModelError, match=r"line 8: TypeError: .* 'int' and 'tuple'"):
        build_model(RunSpec("digits", f"{file}:Net"), GREY)
    write(
        file,
        NET.replace("in_channels):", "in_channels, image_size):\n        self.size = image_size", 1).replace(
            "self.size = image_size\n        super().__init__()", "super().__init__()\n        self.size = image_size"
        ),
    )
    assert build_model(RunSpec("digits", f"{file}:Net"), DataShape(1, 6, 8, 10)).size == (6, 8)


def test_a_changed_file_is_said_where_it_matters(tmp_path: Path, folders: Folders) -> None:
    """Resumed and predicted with: refused. Compared: said, and other seeds of it are no seeds of the run."""
    lab, spec = Lab(folders), spec_of(tmp_path, seed=1)
    lab.train(spec).wait()
    control_stopped = lab.train(spec.replace(epochs=3, seed=2))
    for event in control_stopped.events():
        if type(event).__name__ == "EpochEnded":
            control_stopped.control.stop()
    write(tmp_path / "net.py", NET + "\n# changed\n")
    with pytest.raises(ReslabError, match=r"net.py has changed since the run began \(its SHA-256 is .*restore it"):
        lab.resume(2).wait()
    with pytest.raises(CheckpointError, match="has changed since the run began"):
        list(Lab(folders).predict(1, [write(tmp_path / "x.png", "")]))
    lab.train(spec.replace(seed=3)).wait()
    compared = lab.compare([1, 3])
    assert "network_file" in compared.comparison.differing
    assert compared.groups == ()
    write(tmp_path / "net.py", NET)
    ended = lab.resume(2).wait()
    assert ended is not None
    assert ended.status == "completed"


def test_weights_of_a_run_start_another_one_with_other_classes_and_channels(tmp_path: Path, folders: Folders) -> None:
    lab, spec = Lab(folders), spec_of(tmp_path)
    lab.train(spec).wait()
    weights = lab.run(1).weights
    assert weights is not None
    path = folders.run_folder(1) / weights.file
    own = spec.replace(dataset="digits", weights=str(path))
    network = build_model(own.replace(freeze="backbone"), DataShape(3, 8, 8, 4))
    assert network.new_names == ("head",)
    assert {name for name, values in network.named_parameters() if values.requires_grad} == {"head.weight", "head.bias"}
    assert network.notes == ("weights of run 1", "layer1 1→3 channels")
    grey = build_model(own, GREY)
    assert grey.get_parameter("head.weight").shape[0] == 10
    torch.testing.assert_close(
        network.get_parameter("layer1.weight").sum(1), grey.get_parameter("layer1.weight").sum(1)
    )
    wide = write(tmp_path / "wide.py", NET.replace("8", "9"))
    with pytest.raises(ModelError, match=r"do not fit .*wide.py:Net \(head.weight is"):
        build_model(own.replace(model=f"{wide}:Net"), GREY)


@pytest.mark.slow
def test_it_is_forecast_or_a_sentence_says_why_not(tmp_path: Path, folders: Folders) -> None:
    lab = Lab(folders)
    assert lab.forecast(spec_of(tmp_path).replace(dataset="digits")).forecast is not None
    reads = NET.replace("        x = F.relu", "        float(images.sum())\n        x = F.relu")
    plain = RunSpec("digits", f"{write(tmp_path / 'reads.py', reads)}:Net", epochs=1)
    ended = lab.train(plain).wait()  # a value is read, which a forecast does not have: the run is trained all the same
    assert ended is not None
    assert ended.status == "completed", ended.error


@pytest.mark.slow
@pytest.mark.parametrize("model", ["net.py:Net", "net.toml"])
def test_killed_and_resumed_it_is_the_run_that_was_never_killed(model: str, tmp_path: Path, folders: Folders) -> None:
    killed_resumed_and_compared(spec_of(tmp_path, model, epochs=30, checkpoint_every=1), folders, tmp_path)
