"""timm's networks are built, trained, killed and resumed as reslab's own, and the stored table is timm's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.catalog.models import count_parameters, describe_changes, find_model
from engine.catalog.timm_table import count_timm, table_version, timm_rows
from engine.cli import main
from engine.errors import ModelError
from engine.lab import Lab
from engine.models.building import build_model, check_weights
from engine.models.whole import check_model
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from tests.killing import killed_resumed_and_compared
from tests.own_files import DATA, write

pytestmark = [pytest.mark.timm, pytest.mark.usefixtures("one_thread")]
GREY = DataShape(1, 32, 32, 5)
NAMES = (
    "resnet10t", "efficientnet_lite0", "convnext_atto", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
    "swin_tiny_patch4_window7_224", "mobilenetv3_small_050", "regnetx_002", "ghostnet_050", "mixer_s32_224",
)  # fmt: skip


def timm() -> Any:
    return pytest.importorskip("timm", reason="the extra timm is not installed")


def count(network: nn.Module) -> int:
    return sum(values.numel() for values in network.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_counts_are_those_of_the_built_networks(name: str) -> None:
    timm()
    row = timm_rows()[name]
    for shape in (DataShape(3, row.size, row.size, 1000), DataShape(1, row.size, row.size, 7)):
        with torch.device("meta"):
            network = build_model(RunSpec("digits", f"timm:{name}"), shape)
        assert count_timm(f"timm:{name}", shape) == count(network)


def test_the_table_has_the_networks_of_its_version() -> None:
    package = timm()
    if package.__version__ != table_version():
        pytest.skip(f"the table is of timm {table_version()}, installed is {package.__version__}")
    assert list(timm_rows()) == package.list_models()
    assert {name for name, row in timm_rows().items() if row.is_pretrained} == {
        name for name in package.list_models() if package.is_model_pretrained(name)
    }
    assert sum(row.num_parameters is not None for row in timm_rows().values()) > 0.99 * len(timm_rows())


def test_a_network_of_a_fixed_size_is_built_for_the_images_or_refused() -> None:
    timm()
    shape = DataShape(1, 64, 64, 5)
    network = build_model(RunSpec("digits", "timm:vit_tiny_patch16_224"), shape)
    assert network.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    assert network.new_names == ("head",)
    assert count_parameters(find_model("timm:vit_tiny_patch16_224"), shape, "own") is None
    with pytest.raises(ModelError, match=r"efficientformer_l1 cannot take images of 64×64×1 .*image size to 224"):
        check_model(RunSpec("digits", "timm:efficientformer_l1"), shape)
    with pytest.raises(ModelError, match="cannot take images of 8×8×1"):
        check_model(RunSpec("digits", "timm:vit_tiny_patch16_224"), DataShape(1, 8, 8, 10))


def test_unknown_names_and_weights_are_one_sentence(folders: Folders) -> None:
    timm()
    with pytest.raises(ModelError, match=r"has no network 'resnet10x': did you mean timm:resnet10t\?"):
        Lab(folders).train(RunSpec("digits", "timm:resnet10x")).wait()
    with pytest.raises(ModelError, match="timm has no trained weights"):
        check_model(RunSpec("digits", "timm:resnet18d.nonsense", weights="imagenet"), None)
    assert Lab(folders).runs() == []


def test_trained_weights_offline_are_one_sentence(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timm()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = RunSpec("digits", "timm:resnet10t", weights="imagenet", image_size=32)
    check_weights(spec)
    ended = Lab(folders).train(spec).wait()
    assert ended is not None
    assert ended.status == "failed"
    assert "timm's weights for resnet10t are neither in the hub's cache nor can they be downloaded" in str(ended.error)
    assert "\n" not in str(ended.error)


def test_trained_weights_in_the_hubs_cache_are_used_with_their_mean_and_std(
    folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = timm()
    from safetensors.torch import save_file

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    trained = package.create_model("vit_tiny_r_s16_p8_224")
    config = trained.pretrained_cfg
    cache = tmp_path / "hub" / f"models--{config['hf_hub_id'].replace('/', '--')}"
    snapshot = cache / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    save_file(trained.state_dict(), snapshot / "model.safetensors")
    (snapshot / "config.json").write_text(json.dumps({"architecture": "vit_tiny_r_s16_p8_224"}))
    spec = RunSpec("digits", "timm:vit_tiny_r_s16_p8_224", weights="imagenet", freeze="backbone", image_size=224)
    network = build_model(spec, DataShape(1, 224, 224, 10))
    assert network.get_parameter("blocks.0.attn.qkv.weight").equal(trained.get_parameter("blocks.0.attn.qkv.weight"))
    learning = {name for name, values in network.named_parameters() if values.requires_grad}
    assert learning == {"head.weight", "head.bias"}
    from engine.models.timm_models import pretrained_moments

    assert pretrained_moments(find_model(spec.model), 3) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_its_mean_and_std_normalise_the_images(
    tmp_path: Path, folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = timm()
    write(tmp_path / "data.py", DATA)
    create = package.create_model
    monkeypatch.setattr(package, "create_model", lambda name, pretrained, **more: create(name, **more))  # no network
    settings: dict[str, Any] = {"weights": "imagenet", "freeze": "backbone", "image_size": 32, "epochs": 1}
    spec = RunSpec(f"code:{tmp_path}/data.py:load", "timm:vit_tiny_patch16_224", **settings)
    lab = Lab(folders)
    ended = lab.train(spec).wait()
    assert ended is not None
    assert ended.status == "completed", ended.error
    started = lab.run(1).started
    assert started is not None
    assert (started.mean, started.std) == ((0.5,), (0.5,))
    assert started.notes[0].startswith("weights vit_tiny_patch16_224.")
    assert started.resolved.versions["timm"] == package.__version__


def test_it_is_listed_and_forecast(folders: Folders, capsys: pytest.CaptureFixture[str]) -> None:
    timm()
    assert main(["models", "timm"], lambda opening: 0) == 0
    out = capsys.readouterr().out
    assert "timm:resnet10t " in out
    assert len(out.splitlines()) > 1000
    plan = Lab(folders).forecast(RunSpec("digits", "timm:resnet10t"))
    assert plan.forecast is not None
    assert describe_changes(find_model("timm:resnet10t"), GREY, "own") == ("built for 1 channel and 5 classes",)


def test_killed_and_resumed_it_is_the_run_that_was_never_killed(tmp_path: Path, folders: Folders) -> None:
    """With stochastic depth and dropout that no layer of torch's shows."""
    timm()
    write(tmp_path / "data.py", DATA)
    spec = RunSpec(f"code:{tmp_path}/data.py:load", "timm:resnet10t", epochs=4, batch_size=64, checkpoint_every=1)
    killed_resumed_and_compared(spec, folders, tmp_path)


def test_batch_norm_with_an_activation_is_not_shared_between_workers() -> None:
    from engine.step.batchnorm import share_batchnorm

    timm()
    network = build_model(RunSpec("digits", "timm:efficientnet_lite0"), GREY)
    with pytest.raises(ModelError, match="BatchNormAct2d computes more than batch-norm"):
        share_batchnorm(network)
