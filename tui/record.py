"""What the screens read from the record, each call with a connection of its own, so that any thread may make it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine.device import import_torch
from engine.errors import DatasetError
from engine.export.files import export_run
from engine.paths import Places, expand
from engine.records import RunDetails
from engine.store.store import Store
from engine.text import memory_size
from tui.listing import EMPTY, Listing, list_runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.analysis.comparison import Comparison
    from engine.analysis.mistakes import Mistake
    from engine.analysis.seeds import GroupVerdict, SeedGroup
    from engine.control import Control
    from engine.data.manifest import FileRecord
    from engine.data.survey import Survey
    from engine.memory.ledger import Ledger
    from engine.predicting import Guess
    from engine.progress import Progress
    from engine.spec import RunSpec


_SIDE = 64  # pixels of a picture that is shown
MOST_PICTURES = 500  # of one folder: 6 MB


@dataclass(frozen=True, slots=True)
class FolderGuesses:
    """Name, guesses and small picture (3, H, W) of each image; how many files could not be used, how many are left."""

    images: tuple[tuple[str, tuple[Guess, ...], NDArray[np.uint8]], ...]
    num_left_out: int
    num_to_go: int


def read_listing(places: Places, known: Listing = EMPTY) -> Listing:
    """Every run, newest first, with its texts; `known` itself where the record is as it was (10,000 runs: 0.5 s)."""
    with Store(places.database) as store:
        store.settle_lost_runs()
        status = places.database.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        return known if known.stamp == stamp else list_runs(store.runs(), stamp)


def read_mistakes(
    places: Places,
    details: RunDetails,
    cell: tuple[int, int] | None,
    tell: Callable[[Progress], None],
    control: Control,
) -> tuple[list[Mistake], NDArray[np.uint8]]:
    """A run's mistakes, the surest first, and their images (N, C, H, W); or the test images of one cell of the
    confusion matrix, given as true and predicted class. Loads torch.
    """
    import_torch()
    from engine.analysis.mistakes import find_mistakes, load_test_images, with_files
    from engine.analysis.naming import test_files

    with Store(places.database) as store:
        predictions = store.predictions(details.record.run)
    files = test_files(places.run_folder(details.record.run), details.class_names, predictions.labels)
    mistakes = with_files(find_mistakes(predictions, *(cell or ())), files)
    return mistakes, load_test_images(details, places, control, tell, [item.index for item in mistakes])


def read_differences(
    places: Places, a: RunDetails, b: RunDetails, tell: Callable[[Progress], None], control: Control
) -> tuple[list[tuple[Mistake, Mistake]], NDArray[np.uint8]]:
    """The test images that exactly one of two runs gets right, with both answers, and those images. Loads torch."""
    import_torch()
    from engine.analysis.mistakes import find_differences, load_test_images, with_files
    from engine.analysis.naming import test_files

    with Store(places.database) as store:
        predictions = store.predictions(a.record.run)
        found = find_differences(predictions, store.predictions(b.record.run))
    files = test_files(places.run_folder(a.record.run), a.class_names, predictions.labels)
    found = list(zip(with_files([one for one, _ in found], files), [other for _, other in found], strict=True))
    return found, load_test_images(a, places, control, tell, [one.index for one, _ in found])


def read_opened(places: Places, run: int) -> tuple[RunDetails, list[FileRecord] | None]:
    """A run, and the files that it left out; None where its dataset is none of files."""
    from engine.data.manifest import MANIFEST_NAME, read_unusable

    with Store(places.database) as store:
        details = store.details(run)
    return details, read_unusable(places.run_folder(run) / MANIFEST_NAME)


def read_guesses(
    places: Places, details: RunDetails, file: Path, ledger: Ledger
) -> tuple[tuple[Guess, ...], NDArray[np.uint8]]:
    """What a run predicts for an image of one's own, and the image (3, H, W), small. Loads torch.

    Raises:
        ReslabError: the run has no weights, or the file is no image.
    """
    import_torch()
    from engine.predicting import predict, read_reading

    (found,) = predict(details, places, [file], ledger)
    pixels = read_reading(details).picture(expand(file), _SIDE)
    problem = found.error or (pixels if isinstance(pixels, str) else None)
    if problem is not None or isinstance(pixels, str):
        raise DatasetError(f"{file} is not usable: {problem}; expected an image such as a JPEG or PNG")
    return found.guesses, pixels


def read_folder_guesses(
    places: Places,
    details: RunDetails,
    folder: Path,
    ledger: Ledger,
    tell: Callable[[int, int], None],
    control: Control,
) -> FolderGuesses:
    """What a run predicts for the images in a folder of one's own, the first `MOST_PICTURES`; `tell` hears how many
    files of how many are done. Loads torch.

    Raises:
        ReslabError: the run has no weights, or there is no image.
    """
    import_torch()
    from engine.predicting import find_files, predict, read_reading

    files = [found.path for found in find_files([folder])]
    reading, images, done = read_reading(details), [], 0
    for done, found in enumerate(predict(details, places, files, ledger), start=1):
        tell(done, len(files))
        pixels = reading.picture(Path(found.file), _SIDE) if found.error is None else found.error
        if not isinstance(pixels, str):
            images.append((Path(found.file).name, found.guesses, pixels))
        if control.stop_requested or len(images) == MOST_PICTURES:
            break
    if not images:
        raise DatasetError(f"no image in {folder} can be used; expected images such as JPEG or PNG")
    return FolderGuesses(tuple(images), done - len(images), len(files) - done)


def read_forecast(places: Places, ledger: Ledger, spec: RunSpec) -> str:
    """Whether a run would fit now, in words; where that cannot be said, why. Loads torch."""
    import_torch()
    from engine.errors import ReslabError
    from engine.forecast.asking import ask_forecast

    try:
        plan = ask_forecast(spec, places, ledger)
    except ReslabError as error:
        return str(error)
    peak = memory_size(plan.forecast.allocator_bytes if plan.forecast else None)
    return f"memory {peak} of {memory_size(plan.room_bytes)}: {plan.words} · batch size up to {plan.largest_batch:,}"


def read_survey(places: Places, spec: RunSpec) -> Survey | str:
    """What lies there of a dataset, by its files' names and headers; where that cannot be said, why."""
    from engine.data.survey import survey_now
    from engine.errors import ReslabError

    try:
        return survey_now(spec, places)
    except ReslabError as error:
        return str(error)


def read_comparison(
    places: Places, runs: Sequence[int]
) -> tuple[list[RunDetails], Comparison, list[SeedGroup], list[GroupVerdict]]:
    """The runs' details, their comparison, their groups of seeds, and the comparison of those."""
    from engine.analysis.comparison import compare
    from engine.analysis.seeds import compare_groups, group_by_seed, images_of

    with Store(places.database) as store:
        compared = store.compared(runs)
    details = [item for item, _ in compared]
    found, caveats = compare(compared), {item.record.run: item.caveat for item in details}
    images = {item.record.run: images_of(item) for item in details}
    groups = [
        group for group in group_by_seed([item.record for item in details], caveats, images) if len(group.runs) > 1
    ]
    return details, found, groups, compare_groups(groups) if found.no_verdict is None else []


def read_run(places: Places, run: int) -> tuple[RunSpec, str]:
    """What a run was asked to be, and its status."""
    from engine.spec import RunSpec

    with Store(places.database) as store:
        store.settle_lost_runs()
        record = store.run(run)
    return RunSpec.from_stored(record.spec), record.status


def delete_run(places: Places, run: int) -> None:
    with Store(places.database) as store:
        store.delete(run)
    shutil.rmtree(places.run_folder(run), ignore_errors=True)


def export(places: Places, run: int) -> Path:
    """Write the run's plain files under exports/ in the home folder, which deleting the run leaves alone."""
    with Store(places.database) as store:
        return export_run(store, run, places.run_folder(run), places.home / "exports" / str(run))
