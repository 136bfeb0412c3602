"""Reads tables: the header and the rows of a .csv, .tsv or .parquet file, as texts. Loads no torch."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from engine.errors import DatasetError
from engine.text import safe_text

TABLE = re.compile(r"\.(csv|tsv|parquet)$", re.IGNORECASE)
_DELIMITERS = ",;\t|"
_BATCH = 10_000


def open_table(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """A table's header, and its rows, read while they are iterated.

    Raises:
        DatasetError: it is missing or no table; from the iterator too.
    """
    if not path.is_file():
        raise DatasetError(f"no file {path}; expected a .csv, .tsv or .parquet table of paths and labels")
    rows = _parquet_rows(path) if path.name.lower().endswith(".parquet") else _text_rows(path)
    try:
        header = next(rows)
    except StopIteration:
        raise DatasetError(f"{path} is empty; expected a header and one row an image") from None
    return [name.strip() for name in header], rows


def _text_rows(path: Path) -> Iterator[list[str]]:
    try:
        with path.open("rb") as raw:
            encoding = "utf-16" if raw.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
        # surrogateescape: names of files need not be UTF-8
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            first = file.readline(_BATCH)
            rows = csv.reader(chain([first], file), delimiter=_delimiter(path, first))
            yield from (row for row in rows if row)
    except (OSError, csv.Error, UnicodeError) as error:
        raise _unreadable(path, error) from None


def _delimiter(path: Path, header: str) -> str:
    if path.name.lower().endswith(".tsv"):
        return "\t"
    return max(_DELIMITERS, key=header.count)


def _parquet_rows(path: Path) -> Iterator[list[str]]:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DatasetError(
            f"{path} needs pyarrow, which is not installed: uv sync --extra parquet installs it; or save it as .csv"
        ) from None
    try:
        with path.open("rb") as file:
            table = ParquetFile(file)
            names = [field.name for field in table.schema_arrow if not _is_other(str(field.type))]
            yield names
            for batch in table.iter_batches(batch_size=_BATCH, columns=names):
                columns = [map(_text, column.to_pylist()) for column in batch.columns]
                yield from map(list, zip(*columns, strict=True))
    except (OSError, ValueError, NotImplementedError, TypeError, KeyError) as error:  # pyarrow's errors are these
        raise _unreadable(path, error) from None


def _is_other(kind: str) -> bool:
    """Whether a column has no texts or numbers, but for example the bytes of images."""
    return kind.startswith(("struct", "list", "large_list", "map", "binary", "large_binary", "fixed_size"))


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _unreadable(path: Path, error: Exception) -> DatasetError:
    words = getattr(error, "strerror", None) or safe_text((str(error).splitlines() or ["damaged"])[0], 100)
    return DatasetError(f"cannot read {path} as a table ({words}); expected a header and one row an image")
