"""Everything that reslab does, each use case once: the command line and the app call these and present the results.

    from engine import Lab, RunSpec

    lab = Lab()
    for event in lab.train(RunSpec("digits", "resnet18", epochs=3)).events():
        print(event)
    print(lab.compare([1, 2]).comparison.verdicts[0].verdict)

Each call opens its own store, so it can be made from any thread. Torch is loaded by the first call that needs it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from engine.control import RunControl
from engine.errors import StoreError
from engine.events import SettingsTuned
from engine.format_number import check_format
from engine.paths import Folders, expand, find_folders
from engine.records import Predictions, QueueEntry, RunDetails, RunSummary
from engine.spec import FORMAT, RunSpec
from engine.store.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.analysis.mistakes import Mistake
    from engine.analysis.naming import NamedPrediction
    from engine.analysis.seeds import Compared
    from engine.auditing import DatasetLook
    from engine.control import Control
    from engine.data.audit.values import Audit
    from engine.data.manifest import FileRecord
    from engine.data.survey import Survey
    from engine.forecast.memory_plan import Plan
    from engine.launch.backend import Backend, Handle
    from engine.launch.ray import Cluster
    from engine.launch.requests import ControlRequest
    from engine.launch.scheduler import Scheduler
    from engine.memory.ledger import Ledger
    from engine.predicting import FolderGuesses, FoundFile, Guess, ImageGuesses
    from engine.progress import Progress

Pairs = Sequence[tuple[int, int]]
"""Which runs to compare, by their positions in the list."""


def _load_torch() -> None:
    from engine.device import import_torch  # its versions of packages take 25 ms to read

    import_torch()


class Lab:
    """The lab of one set of folders. `ledger` records what runs left in memory. Runs train on `cluster`, each in a
    process of its own; None: in this process.
    """

    def __init__(
        self, folders: Folders | None = None, ledger: Ledger | None = None, cluster: Cluster | None = None
    ) -> None:
        self.folders = find_folders() if folders is None else folders
        self._ledger = ledger
        self.cluster = cluster

    # --- runs --------------------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            from engine.memory.ledger import Ledger

            self._ledger = Ledger()
        return self._ledger

    @property
    def backend(self) -> Backend:
        if self.cluster is None:
            from engine.launch.in_process import InProcess

            return InProcess(self.folders, self.ledger)
        from engine.launch.detached import Detached

        return Detached(self.folders, self.cluster)

    def train(self, spec: RunSpec, control: RunControl | None = None) -> Handle:
        """A new run. It starts with the iteration over its events; `wait()` follows it to its end.

        Raises:
            ReslabError: from its events, before the first one, if `spec` cannot be trained on this machine.
        """
        from engine.launch.backend import Job

        return self.backend.start(Job(spec), control)

    def evaluate(self, spec: RunSpec, control: RunControl | None = None) -> Handle:
        """The same without training: the weights of `spec` on its test set."""
        return self.train(spec.replace(epochs=0, warmup_epochs=0.0), control)

    def train_all(self, specs: Sequence[RunSpec]) -> Scheduler:
        """New runs, one after another."""
        from engine.launch.backend import Limit
        from engine.launch.scheduler import ListSource, Scheduler

        return Scheduler(ListSource(specs), self.backend, Limit(), self.folders)

    def resume(self, run: int, control: RunControl | None = None, dataset: str | None = None) -> Handle:
        """Resume run number `run` from its newest checkpoint, with its images from `dataset` if they have moved.

        Raises:
            ReslabError: there is no such run; or, from its events, it cannot be resumed.
        """
        from engine.launch.backend import Job

        return self.backend.start(Job(self.spec(run), run, dataset), control)

    def attach(self, run: int, control: RunControl | None = None) -> Handle:
        """Follow a run in another process: its events so far, then new ones."""
        from engine.launch.backend import Handle
        from engine.launch.follow import follow

        return Handle(lambda control: follow(run, self.folders, control), control or RunControl())

    def summary(self, run: int) -> RunSummary:
        """A run's current row; a run whose process is gone is settled as failed first.

        Raises:
            StoreError: there is no such run.
        """
        from engine.launch.follow import read_summary

        return read_summary(run, self.folders)

    def is_paused(self, run: int) -> bool:
        """Whether a running run is paused."""
        from engine.launch.requests import is_paused

        return is_paused(self.folders.run_folder(run))

    def stop(self, run: int) -> None:
        """Request a clean end of a live run, in any process, after its step.

        Raises:
            StoreError: it is not running, or its folder cannot be written.
        """
        from engine.launch.requests import ControlRequest

        self._send_request(run, ControlRequest(stop=True), "stopped")

    def pause(self, run: int) -> None:
        """Request a live run to pause before its next step. Raises as `stop`."""
        from engine.launch.requests import ControlRequest

        if not self.is_paused(run):
            self._send_request(run, ControlRequest(pause=True), "paused")

    def unpause(self, run: int) -> None:
        """Let a paused run continue in its own process.

        Raises:
            StoreError: it is not paused, or its folder cannot be written.
        """
        from engine.launch.requests import ControlRequest

        if not self.is_paused(run):
            raise StoreError(
                f"run {run} is running and not paused; reslab pause {run} pauses it, reslab stop {run} ends it"
            )
        self._send_request(run, ControlRequest(pause=False), "resumed")

    def _send_request(self, run: int, wanted: ControlRequest, done: str) -> None:
        from engine.launch.follow import send_to_live_run

        send_to_live_run(run, self.folders, wanted, done)

    def enqueue(self, specs: Sequence[RunSpec]) -> None:
        """Put specs at the end of the queue."""
        with Store(self.folders.database) as store:
            store.enqueue(specs)

    def queue(self) -> list[QueueEntry]:
        """The queue, the next entry first."""
        with Store(self.folders.database) as store:
            return store.waiting()

    # --- the queue and what is stored ---------------------------------------------------------------------------------

    def runs(self, dataset: str | None = None, model: str | None = None, status: str | None = None) -> list[RunSummary]:
        """Every run, or those of a dataset, a model, a status; newest first."""
        with Store(self.folders.database) as store:
            store.settle_lost_runs()
            found = store.runs()
        wanted = {"dataset": dataset, "model": model, "status": status}
        return [run for run in found if all(value in (None, "", getattr(run, name)) for name, value in wanted.items())]

    def run(self, run: int) -> RunDetails:
        """Everything stored about one run. Raises StoreError if there is none."""
        with Store(self.folders.database) as store:
            store.settle_lost_runs()
            return store.details(run)

    def spec(self, run: int) -> RunSpec:
        """What a run was asked to be. Raises ReslabError if there is no such run, or a newer reslab stored it."""
        stored = self.summary(run).spec
        check_format(stored, FORMAT, f"the spec of run {run}", StoreError)
        return RunSpec.from_stored(stored)

    def left_out(self, run: int) -> list[FileRecord] | None:
        """The files that a run left out; None if its dataset does not consist of files."""
        from engine.data.manifest import MANIFEST_NAME, read_unusable

        return read_unusable(self.folders.run_folder(run) / MANIFEST_NAME)

    def predictions(self, run: int) -> Iterator[NamedPrediction]:
        """A run's prediction for each test image, with file name and class names."""
        from engine.analysis.naming import named

        with Store(self.folders.database) as store:
            details, predictions = store.details(run), store.predictions(run)
        return named(predictions, details.class_names, self.folders.run_folder(run))

    def delete(self, run: int) -> None:
        """Delete a run, its figures and weights. Raises StoreError if it is running, or does not exist."""
        with Store(self.folders.database) as store:
            store.delete(run)
        shutil.rmtree(self.folders.run_folder(run), ignore_errors=True)

    def export(self, run: int, folder: Path | None = None) -> Path:
        """Write a run as plain files (JSON, CSV, TOML) into `folder`, by default under exports/ in the home folder;
        returns the folder, which stays when the run is deleted.

        Raises:
            StoreError: there is no such run, or the folder cannot be written.
        """
        from engine.export.plain_files import export_run

        target = self.folders.home / "exports" / str(run) if folder is None else expand(folder)
        with Store(self.folders.database) as store:
            return export_run(store, run, self.folders.run_folder(run), target)

    def compare(self, runs: Sequence[int], pairs: Pairs | None = None) -> Compared:
        """Runs side by side, with the verdict of every pair, or of `pairs`; once more without test images that also lie
        in the training set, if an audit of these images is kept.

        Raises:
            StoreError: there are fewer than two different runs, or one is missing or has no evaluation.
        """
        from engine.analysis.seeds import compare_all
        from engine.auditing import compare_rest

        with Store(self.folders.database) as store:
            compared = store.compared(runs)
        return compare_rest(compare_all(compared, pairs), compared, pairs, self.folders)

    def mistakes(
        self, details: RunDetails, cell: tuple[int, int] | None, report: Callable[[Progress], None], control: Control
    ) -> tuple[list[Mistake], NDArray[np.uint8]]:
        """A run's mistakes, the most confident first, and their images (N, C, H, W); or the test images of one cell of
        the confusion matrix, given as true and predicted class. Loads torch.
        """
        _load_torch()
        from engine.analysis.mistakes import find_mistakes, load_test_images, with_files

        predictions = self._predictions(details)
        found = with_files(find_mistakes(predictions, *(cell or ())), self._files(details, predictions))
        return found, load_test_images(details, self.folders, control, report, [item.index for item in found])

    def differences(
        self, a: RunDetails, b: RunDetails, report: Callable[[Progress], None], control: Control
    ) -> tuple[list[tuple[Mistake, Mistake]], NDArray[np.uint8]]:
        """Test images that exactly one of two runs classifies correctly, with both predictions. Loads torch."""
        _load_torch()
        from engine.analysis.mistakes import find_differences, load_test_images, with_files

        predictions = self._predictions(a)
        found = find_differences(predictions, self._predictions(b))
        ours = with_files([one for one, _ in found], self._files(a, predictions))
        images = load_test_images(a, self.folders, control, report, [one.index for one in ours])
        return list(zip(ours, [other for _, other in found], strict=True)), images

    def _predictions(self, details: RunDetails) -> Predictions:
        with Store(self.folders.database) as store:
            return store.predictions(details.record.run)

    def _files(self, details: RunDetails, predictions: Predictions) -> Sequence[str]:
        from engine.analysis.naming import test_files

        return test_files(self.folders.run_folder(details.record.run), details.class_names, predictions.labels)

    def find_files(self, paths: Sequence[Path]) -> list[FoundFile]:
        """The files in `paths`; folders are searched at any depth."""
        _load_torch()
        from engine.predicting import find_files

        return find_files(paths)

    def predict(self, run: int, images: Sequence[Path]) -> Iterator[ImageGuesses]:
        """The five most likely classes of each file, in order, including all files in folders. An unusable file yields
        its error instead. Loads torch.

        Raises:
            ReslabError: there is no such run, it has no weights, or they are damaged.
        """
        files = self.find_files(images)
        from engine.predicting import predict

        return predict(self.run(run), self.folders, [file.path for file in files], self.ledger)

    def predict_picture(self, details: RunDetails, file: Path) -> tuple[tuple[Guess, ...], NDArray[np.uint8]]:
        """The most likely classes of one image, and its thumbnail (3, H, W). Loads torch. Raises ReslabError if the run
        has no weights, or the file is not an image.
        """
        _load_torch()
        from engine.predicting import predict_picture

        return predict_picture(details, self.folders, file, self.ledger)

    def predict_pictures(
        self, details: RunDetails, folder: Path, report: Callable[[int, int], None], control: Control
    ) -> FolderGuesses:
        """The same for the first `MOST_PICTURES` images of a folder; `report` gets the files done and in total. Loads
        torch. Raises ReslabError if the run has no weights, or the folder no usable image.
        """
        _load_torch()
        from engine.predicting import predict_pictures

        return predict_pictures(details, self.folders, folder, self.ledger, report, control)

    @property
    def look(self) -> DatasetLook:
        """Kept audits, decisions on near-duplicates, exclude lists."""
        from engine.auditing import DatasetLook

        return DatasetLook(self.folders)

    def audit(
        self, spec: RunSpec, control: Control | None = None, run: int | None = None
    ) -> Generator[Progress, None, Audit]:
        """What a spec's dataset holds, also as the network of `run` sees it; yields progress, and is instant the second
        time. Raises ReslabError without the images or the run's weights, LoadingStopped if `control` requests a stop.
        """
        details = None if run is None else self.run(run)
        return self.look.audit(spec, control or RunControl(), details, self._ledger)

    def survey(self, spec: RunSpec) -> Generator[Progress, None, Survey]:
        """What a spec's dataset contains, from file names and headers; yields its progress. Raises DatasetError if
        there is no such folder, or it is not a dataset.
        """
        from engine.data.survey import survey

        return survey(spec, self.folders)

    def survey_now(self, spec: RunSpec) -> Survey:
        """The same, without its progress."""
        from engine.data.survey import survey_now

        return survey_now(spec, self.folders)

    def forecast(self, spec: RunSpec) -> Plan:
        """The memory that a run will take, and how it would be started now. Loads torch.

        Raises:
            ReslabError: the network cannot take such images, or the folder or the device is missing.
        """
        _load_torch()
        from engine.forecast.from_spec import plan_from_spec

        return plan_from_spec(spec, self.folders, self.ledger)

    def autotune(self, spec: RunSpec) -> Generator[Progress, None, SettingsTuned | None]:
        """Measure which settings are fastest for `spec` on this processor, and store the choice for later runs; None if
        there was too little time. Yields its progress. Loads torch.

        Raises:
            ReslabError: there is nothing to choose, or the network cannot take such images.
        """
        _load_torch()
        from engine.training.autotune import measure_choice

        tuned = yield from measure_choice(spec, self.survey_now(spec))
        if tuned is not None:
            with Store(self.folders.database) as store:
                store.record(tuned)
        return tuned

    def autotune_choices(self) -> list[SettingsTuned]:
        """The choices that later runs use, the oldest first."""
        with Store(self.folders.database) as store:
            return list(store.autotune_choices().values())

    def forget_autotune_choices(self) -> int:
        """Delete all choices, so that the next runs measure again; returns how many there were."""
        with Store(self.folders.database) as store:
            return store.forget_autotune_choices()
