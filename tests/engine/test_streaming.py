"""Images that fit neither into the cache nor on the disk are decoded as they are used, and the run is the very same."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engine.control import RunControl
from engine.data import decoding, streaming
from engine.data.feeding import feed
from engine.data.images import ImageData
from engine.data.loading import load_dataset
from engine.data.room import DecodePlan
from engine.events import Evaluated, Event, Metrics, RunContinued, RunEnded, RunStarted, StepsCompleted
from engine.lab import Lab
from engine.paths import Folders
from engine.progress import LoadingStopped
from engine.spec import RunSpec
from tests.engine.test_cli import output_of, reslab
from tests.fakes import drain

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of differing sizes and formats, with a duplicate, a grey one, a deep one and a broken one."""
    draws = np.random.default_rng(1)
    for name in ("bright", "dark"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(14):
            height, width = draws.integers(12, 30, 2).tolist()
            pixels = draws.integers(0, 120, (height, width, 3)) + (120 if name == "bright" else 0)
            path = tmp_path / "pictures" / name / f"{number:02}"
            Image.fromarray(pixels.astype(np.uint8)).save(path.with_suffix(".jpg" if number % 3 else ".png"))
    bright = tmp_path / "pictures" / "bright"
    (bright / "copy.jpg").write_bytes((bright / "01.jpg").read_bytes())
    (bright / "broken.jpg").write_bytes((bright / "02.jpg").read_bytes()[:200])
    Image.new("L", (20, 20), 200).save(bright / "grey.png")
    Image.fromarray(draws.integers(0, 4000, (16, 16)).astype(np.uint16)).save(bright / "deep.png")
    return tmp_path / "pictures"


@pytest.fixture
def nothing_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")


def spec_of(folder: Path, **settings: Any) -> RunSpec:
    chosen = {"epochs": 2, "batch_size": 8, "image_size": 8, "flip": True, "crop_padding": 1, **settings}
    return RunSpec(f"folder:{folder}", "resnet20", **chosen)


def load(folders: Folders, spec: RunSpec) -> tuple[list[str], ImageData]:
    stages, data = drain(load_dataset(spec, folders, RunControl()))
    return [progress.stage for progress in stages], data


@dataclass(frozen=True)
class Ran:
    """A run's figures, to the last bit, and where its images were."""

    losses: list[float]
    metrics: list[Metrics]
    final: bytes
    started: RunStarted

    @classmethod
    def of(cls, events: list[Event]) -> Ran:
        losses = [loss for event in events if isinstance(event, StepsCompleted) for loss in event.losses]
        evaluated = [event for event in events if isinstance(event, Evaluated)]
        started = next(event for event in events if isinstance(event, RunStarted))
        final = evaluated[-1].predictions + evaluated[-1].confidences
        return cls(losses, [event.metrics for event in evaluated], final, started)

    @property
    def facts(self) -> tuple[object, ...]:
        started = self.started
        images = (started.num_train, started.num_val, started.num_test, started.mean, started.std, started.left_out)
        return self.losses, self.metrics, self.final, images, started.test_sha256, started.train_sha256, started.shared


def run(folders: Folders, spec: RunSpec) -> Ran:
    return Ran.of(list(Lab(folders).train(spec).events()))


def test_a_run_on_images_decoded_as_they_are_used_is_the_run_on_kept_ones(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs, val_share=0.2)
    kept = run(folders, spec)
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    used = run(folders, spec)
    assert used.facts == kept.facts
    assert kept.started.resolved.images == "resident"
    assert used.started.resolved.images == "decoded"
    assert used.started.notes == (
        *kept.started.notes,
        "0.0 MiB decoded, RESLAB_CACHE_GIB is 0: images are decoded as they are used",
    )
    manifests = [(folders.run_folder(number) / "manifest.csv").read_bytes() for number in (1, 2)]
    assert manifests[0] == manifests[1]


@pytest.mark.usefixtures("nothing_fits")
def test_what_the_first_pass_finds_out_is_kept(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs)
    stages, first = load(folders, spec)
    assert {"decode", "measure"} <= set(stages)
    monkeypatch.setattr(decoding, "decode", lambda *_: pytest.fail("decoded again"))
    monkeypatch.setattr(streaming, "decode", lambda *_: pytest.fail("decoded again"))
    _, second = load(folders, spec)
    assert (second.mean, second.std, second.test_sha256) == (first.mean, first.std, first.test_sha256)
    assert second.manifest == first.manifest
    assert {path.name for path in folders.cache.rglob("*.*")} >= {"hashes.bin", "index.json", "parts.json"}
    assert not list(folders.cache.rglob("images.u8"))


def test_another_split_counts_only_the_images_that_are_not_trained_on(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs, split_seed=3, val_share=0.3)
    _, kept = load(folders, spec)
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    load(folders, spec_of(photographs))
    read: list[Path] = []

    def noted(path: Path) -> bytes:
        read.append(path)
        return decoding.read_bytes(path)

    monkeypatch.setattr(streaming, "read_bytes", noted)
    _, used = load(folders, spec)
    assert len(read) == len(used.test) + len(used.val or ())
    assert (used.mean, used.std, used.test_sha256) == (kept.mean, kept.std, kept.test_sha256)
    assert used.train.sha256() == kept.train.sha256()


def test_images_that_a_list_leaves_out_are_not_counted(
    folders: Folders, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs, val_share=0.2)
    _, whole = load(folders, spec)
    left_out = [record.sha256 for record in whole.manifest if record.split != "unusable"][::5]
    (tmp_path / "leave.txt").write_text("\n".join(left_out))
    _, kept = load(folders, spec.replace(exclude=str(tmp_path / "leave.txt")))
    monkeypatch.setenv("RESLAB_CACHE_GIB", "0")
    _, used = load(folders, spec.replace(exclude=str(tmp_path / "leave.txt")))
    assert used.is_streamed
    assert (used.mean, used.std, used.test_sha256) == (kept.mean, kept.std, kept.test_sha256)
    assert used.mean != whole.mean
    assert used.manifest == kept.manifest


def test_a_disk_that_is_too_small_is_found_out_before_decoding(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(photographs)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6_000))
    _, data = load(folders, spec_of(photographs))
    assert data.is_streamed
    assert [note for note in data.notes if "free in" in note]


def changed(path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (changed, "its content has changed since"),
        pytest.param(Path.unlink, "cannot read it (No such file or directory)", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("nothing_fits")
def test_a_file_that_changes_in_mid_run_ends_it_and_the_rest_can_be_resumed(
    folders: Folders, photographs: Path, change: Any, why: str
) -> None:
    spec = spec_of(photographs, epochs=3)
    whole = run(folders, spec)
    file = photographs / "dark" / "07.jpg"
    content, times = file.read_bytes(), file.stat()
    events: list[Event] = []
    for event in Lab(folders).train(spec).events():
        events.append(event)
        if isinstance(event, Evaluated) and event.epoch == 1:
            change(file)
    ended = events[-1]
    assert isinstance(ended, RunEnded)
    assert ended.status == "failed"
    assert ended.error is not None
    assert f"{file} cannot be used any more: {why}" in ended.error
    assert "\n" not in ended.error
    assert ended.steps >= 3
    file.write_bytes(content)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    resumed = list(Lab(folders).resume(2).events())
    assert any(isinstance(event, RunContinued) and event.step == ended.steps for event in resumed)
    assert Ran.of(resumed).facts == whole.facts


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_fits")
def test_a_stopped_run_goes_on_to_the_last_bit_where_images_are_kept(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs, epochs=3)
    whole = run(folders, spec)
    control = RunControl()
    for event in Lab(folders).train(spec, control).events():
        if isinstance(event, StepsCompleted) and event.last_step >= 4:
            control.stop()
    monkeypatch.delenv("RESLAB_CACHE_GIB")
    resumed = Ran.of(list(Lab(folders).resume(2).events()))
    assert resumed.started.resolved.images == "resident"
    assert resumed.facts == whole.facts


class Gate:
    """Holds every decoding back, once closed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.waiting = threading.Event(), threading.Event()
        self.open.set()

        def held(*arguments: Any) -> Any:
            if not self.open.is_set():
                self.waiting.set()
            self.open.wait(30)
            return decoding.decode(*arguments)

        monkeypatch.setattr(streaming, "decode", held)


def decoding_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("decode")]


@pytest.mark.usefixtures("nothing_fits")
def test_a_stop_is_heard_while_a_batch_is_being_decoded(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = load(folders, spec_of(photographs))
    gate, control = Gate(monkeypatch), RunControl()
    gate.open.clear()
    batches = feed(data.train, None, [(0, 8), (8, 16)], CPU, control)

    def stop() -> None:
        gate.waiting.wait(30)
        control.stop()
        gate.open.set()

    threading.Thread(target=stop).start()
    assert list(batches) == []
    assert decoding_threads() == []


@pytest.mark.usefixtures("nothing_fits")
def test_images_ahead_are_bounded_in_number_and_in_bytes(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, data = load(folders, spec_of(photographs))
    assert data.train.source is not None
    for num_bytes, ahead in ((streaming.BYTES_AHEAD, streaming.BATCHES_AHEAD), (5 * 192, 2), (1, 1)):
        monkeypatch.setattr(streaming, "BYTES_AHEAD", num_bytes)
        begun: list[int] = []

        def batches(begun: list[int] = begun) -> Iterator[torch.Tensor]:
            for start in range(0, 20, 2):
                begun.append(start)
                yield torch.arange(start, start + 2)

        images = data.train.source.read(batches(), False, None)
        next(images)
        assert len(begun) == 1 + ahead
        images.close()  # type: ignore[attr-defined]  # it is a generator
        assert decoding_threads() == []


@pytest.mark.usefixtures("nothing_fits")
def test_a_stop_during_the_first_pass_leaves_nothing_behind(folders: Folders, photographs: Path) -> None:
    control = RunControl()
    work = load_dataset(spec_of(photographs), folders, control)
    while next(work).stage != "decode":
        pass
    control.stop()
    with pytest.raises(LoadingStopped):
        drain(work)
    assert [path.suffix for path in folders.cache.iterdir()] == [".lock"]


@pytest.mark.usefixtures("nothing_fits")
def test_size_and_time_are_said_before_the_first_pass(folders: Folders, photographs: Path) -> None:
    progress = drain(load_dataset(spec_of(photographs), folders, RunControl()))[0]
    said = [one.note for one in progress if one.note]
    assert len(said) == 1
    assert said[0].startswith(
        "32 images take 0.0 MiB decoded, RESLAB_CACHE_GIB is 0: they are decoded as they are used"
    )
    assert next(index for index, one in enumerate(progress) if one.note) <= min(
        index for index, one in enumerate(progress) if one.stage == "decode"
    )


@pytest.mark.usefixtures("nothing_fits")
def test_the_mistakes_of_such_a_run_are_shown(folders: Folders, photographs: Path) -> None:
    lab = Lab(folders)
    run(folders, spec_of(photographs))
    found, images = lab.mistakes(lab.run(1), (0, 0), lambda progress: None, RunControl())
    assert len(images) == len(found) > 0
    assert images.shape[1:] == (3, 8, 8)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_fits")
def test_the_commands_say_what_decoding_takes(
    folders: Folders, photographs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = (f"folder:{photographs}", "resnet20", "--image-size", "8")
    said = output_of(capsys, "forecast", *images, "--json")
    assert said["dataset_bytes"] == 0
    plan = said["decoding"]
    assert (plan["num_bytes"], plan["kept"], plan["is_counted"]) == (32 * 3 * 8 * 8, False, False)
    assert plan["reason"] == "RESLAB_CACHE_GIB is 0"
    assert plan["pass_s"] > 0
    assert reslab("train", *images, "--epochs", "1") == 0
    said_before, run_line = capsys.readouterr().err.splitlines()[:2]
    assert said_before.startswith("32 images take 0.0 MiB decoded, RESLAB_CACHE_GIB is 0: they are decoded as")
    assert run_line.startswith("run 1: ")


def test_what_is_decoded_already_is_not_spoken_of(
    folders: Folders, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(photographs)
    before = Lab(folders).survey_now(spec).decoding
    assert before is not None
    assert (before.is_streamed, before.num_files, before.should_ask) == (False, 32, False)
    load(folders, spec)
    assert Lab(folders).survey_now(spec).decoding is None


@pytest.mark.parametrize(
    ("plan", "asks"),
    [
        (DecodePlan(1000, 4 * 10**9, 59.0), False),
        (DecodePlan(1000, 4 * 10**9, 61.0), True),
        (DecodePlan(1000, 6 * 10**9, 10.0), True),
        (DecodePlan(1000, 6 * 10**9, 10.0, "it does not fit"), False),  # nothing is written
        (DecodePlan(1000, 6 * 10**9, 61.0, "it does not fit", is_counted=True), True),  # in every epoch
    ],
)
def test_a_minute_or_five_gigabytes_are_asked_about(plan: DecodePlan, asks: bool) -> None:
    assert plan.should_ask == asks
