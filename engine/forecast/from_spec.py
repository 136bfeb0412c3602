"""The forecast for a run that has not started: what Set up shows and `reslab forecast` prints."""

from __future__ import annotations

from engine.catalog.models import find_model, misfit
from engine.data.survey import survey_now
from engine.device import choose_placement, device_name
from engine.errors import ModelError
from engine.forecast.memory_plan import Plan, plan_run
from engine.forecast.step_memory import Step, resident_bytes
from engine.memory.calibration import Calibration, uncalibrated
from engine.memory.headroom import headroom_bytes, images_fit
from engine.memory.ledger import Ledger
from engine.paths import Folders
from engine.shape import DataShape
from engine.spec import RunSpec
from engine.store.store import Store


def plan_from_spec(spec: RunSpec, folders: Folders, ledger: Ledger) -> Plan:
    """How the run would start now, calibrated by earlier runs on its device.

    Raises:
        ReslabError: the network does not accept such images; the folder or the device is missing.
    """
    shape, dataset_bytes = expected_bytes(spec, folders)
    if problem := misfit(find_model(spec.model), shape):
        raise ModelError(problem)
    placement = choose_placement(spec)
    calibration = _calibration(folders, device_name(placement.device)) or uncalibrated(placement.device)
    if not images_fit(
        dataset_bytes, headroom_bytes(placement.device, ledger.num_bytes - ledger.idle_bytes, ledger.bound_bytes)
    ):
        dataset_bytes = 0  # it will be streamed
    return plan_run(Step(spec, shape, placement, dataset_bytes, calibration), ledger)


def expected_bytes(spec: RunSpec, folders: Folders | None = None) -> tuple[DataShape, int]:
    """Shape of a dataset's images, and their bytes in memory, without decoding them: from the headers of the files
    present, or as published if there are none or no `folders` are given. No bytes if they are decoded as they are used.

    Raises:
        DatasetError: the folder is missing, or is not a dataset.
    """
    found = survey_now(spec, folders)
    is_streamed = found.decoding is not None and found.decoding.is_streamed
    return found.shape, 0 if is_streamed else resident_bytes(found.num_images, found.shape)


def _calibration(folders: Folders, name: str) -> Calibration | None:
    if not folders.database.is_file():
        return None
    with Store(folders.database) as store:
        return store.calibration(name)
