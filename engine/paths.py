"""Paths on disk: the home folder (runs and weights), the data folder (datasets), the log. Loads no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from engine.environment import CACHE, DATA, HOME, text_of

DATABASE_NAME = "runs.db"
LOG_NAME = "reslab.log"
_RUN_PREFIX, _MOST_DIGITS = "run:", 18  # SQLite's integers


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one lab. They need not exist, and `data` need not be writable if it has the files already.

    `home` holds runs and weights, `data` the datasets, `cache` the decoded images.
    """

    home: Path
    data: Path
    cache: Path

    @property
    def database(self) -> Path:
        return self.home / DATABASE_NAME

    @property
    def log(self) -> Path:
        return self.home / LOG_NAME

    def run_folder(self, run: int) -> Path:
        """The folder of the weights of run number `run`."""
        return self.home / str(run)


def find_folders(home: str | None = None, data_dir: str | None = None) -> Folders:
    """Resolve the folders: the argument, else the environment, else the default.

    Home: `RESLAB_HOME`, else `checkpoints/` of the clone that this code runs from, else the user's data folder.
    Data: `RESLAB_DATA`, else the user's cache folder. Decoded images: `RESLAB_CACHE`, else the user's cache folder.
    """
    chosen_home = home or text_of(HOME)
    chosen_data = data_dir or text_of(DATA)
    chosen_cache = text_of(CACHE)
    return Folders(
        home=expand(chosen_home).absolute() if chosen_home else _default_home(),
        data=expand(chosen_data).absolute() if chosen_data else _user_folder("cache") / "data",
        cache=expand(chosen_cache).absolute() if chosen_cache else _user_folder("cache") / "decoded",
    )


def expand(path: str | Path) -> Path:
    """Expand `~` and `~user`; unchanged if there is no such user."""
    return Path(os.path.expanduser(path))


def absolute_file(path: str) -> str:
    """`path` as an absolute one, so that it is valid from any folder; unchanged if it is empty."""
    return str(expand(path).absolute()) if path.strip() else path


def absolute_weights(weights: str) -> str:
    """A spec's `weights` with an absolute path, so that it is valid from any folder."""
    if not weights.strip() or weights in ("random", "imagenet") or names_run(weights):
        return weights
    return str(expand(weights).absolute())


def names_run(weights: str) -> bool:
    """Whether a spec's `weights` are those of a run, and not a path."""
    return weights.startswith(_RUN_PREFIX)


def run_of(weights: str) -> int | None:
    """The number in `run:12`; None if it is no number from 1 on."""
    digits = weights.removeprefix(_RUN_PREFIX)
    valid = digits.isascii() and digits.isdecimal() and len(digits) <= _MOST_DIGITS
    return int(digits) or None if valid else None


def _default_home() -> Path:
    clone = Path(__file__).resolve().parent.parent
    if (clone / "pyproject.toml").is_file() and (clone / "checkpoints").is_dir():
        return clone / "checkpoints"
    return _user_folder("data")


def _user_folder(kind: str) -> Path:
    import platformdirs

    return platformdirs.user_cache_path("reslab") if kind == "cache" else platformdirs.user_data_path("reslab")
