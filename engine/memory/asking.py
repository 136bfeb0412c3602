"""The forecast of a run that was not started: what Set up shows and `reslab forecast` prints."""

from __future__ import annotations

from pathlib import Path

from engine.datasets.registry import FOLDER, find_dataset, folder_path
from engine.device import choose_placement, device_name
from engine.errors import ModelError
from engine.memory.calibration import Calibration, uncalibrated
from engine.memory.fitting import Plan, plan_run
from engine.memory.forecast import resident_bytes
from engine.memory.ledger import Ledger
from engine.memory.room import images_fit, room_bytes
from engine.models.registry import find_model, misfit
from engine.paths import Places
from engine.results.store import Store
from engine.shape import DataShape
from engine.spec import RunSpec


def ask_forecast(spec: RunSpec, places: Places, ledger: Ledger) -> Plan:
    """How the run would be started now, calibrated by the earlier runs on its device.

    Raises:
        ReslabError: the network cannot take such images, the folder or the device is not there.
    """
    shape, num_images = expected_images(spec)
    if problem := misfit(find_model(spec.model), shape):
        raise ModelError(problem)
    placement = choose_placement(spec)
    calibration = _calibration(places, device_name(placement.device)) or uncalibrated(placement.device)
    dataset_bytes = resident_bytes(num_images, shape)
    if not images_fit(dataset_bytes, room_bytes(placement.device, ledger.num_bytes - ledger.idle_bytes)):
        dataset_bytes = 0  # it will be streamed
    return plan_run(spec, shape, dataset_bytes, placement, ledger, calibration)


def expected_images(spec: RunSpec) -> tuple[DataShape, int]:
    """Shape and number of a dataset's images, without reading them: as published, or by the names in a folder.

    Raises:
        DatasetError: there is no such folder.
    """
    info = find_dataset(spec.dataset)
    shape = info.spec_shape(spec.image_size)
    if info is not FOLDER and shape is not None and info.num_images is not None:
        return shape, info.num_images
    from engine.datasets.folder import DEFAULT_SIZE, class_names, find_parts

    parts = find_parts(folder_path(spec.dataset))
    names = class_names(parts[0])
    number = sum(_num_files(part / name) for part in parts for name in names)
    size = spec.image_size or DEFAULT_SIZE
    return DataShape(3, size, size, len(names)), number


def _num_files(folder: Path) -> int:
    return sum(1 for path in folder.iterdir() if path.is_file()) if folder.is_dir() else 0


def _calibration(places: Places, name: str) -> Calibration | None:
    if not places.database.is_file():
        return None
    with Store(places.database) as store:
        return store.calibration(name)
