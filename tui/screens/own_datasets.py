"""The rows of Set up's datasets: the table, the user's own, and the row that asks for one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice

from engine.catalog.datasets import DATASETS, FOLDER, absolute_dataset, find_dataset, kind_of, own_path, short_name
from engine.catalog.medmnist import PREFIX
from engine.errors import SpecError
from engine.records import RunSummary
from engine.spec import RunSpec
from tui.widgets.menu import Row

YOUR_FOLDER = "your folder …"
_MOST_REMEMBERED = 8


def dataset_rows(own: Iterable[str]) -> list[Row]:
    """A row for each dataset of the table, then for each of `own`."""
    rows = [Row(info.name, (info.name, str(info.shape), f"{info.num_images:,}")) for info in DATASETS]
    return [*rows, *map(_own_row, own), Row(YOUR_FOLDER, (YOUR_FOLDER, "", ""))]


def _own_row(name: str) -> Row:
    info = find_dataset(name)
    if info.shape is not None:
        return Row(name, (name, str(info.shape), f"{info.num_images:,}"))
    return Row(name, (short_name(name), info.prefix.removesuffix(":") or "package", ""))


def remembered(summaries: Sequence[RunSummary]) -> list[str]:
    """The user's own datasets that runs were trained on and that are still there, the latest first."""
    used = (name for name in dict.fromkeys(summary.dataset for summary in summaries) if kind_of(name) is not None)
    return list(islice((name for name in used if own_path(name).exists()), _MOST_REMEMBERED))


def find_own_dataset(text: str, columns: str) -> str:
    """The dataset that a path means: a folder, a table, an .npz file, an archive; or MedMNIST's by its name.

    Raises:
        SpecError, DatasetError: there is none, or it cannot be read.
    """
    from engine.data.own import own_source
    from engine.failures import dataset_is_used

    if not text.strip():
        raise SpecError("type the path of a folder, a table, an .npz file or an archive")
    name = absolute_dataset(text.strip())
    if kind_of(name) is None and not name.startswith(PREFIX):
        name = absolute_dataset(f"{FOLDER.prefix}{name}")
    if find_dataset(name).is_own:
        with dataset_is_used(name):
            own_source(name).check(RunSpec(name, "resnet18", columns=columns))
    return name
