"""Settings in TOML files, as `--spec` reads them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from engine.errors import SpecError
from engine.format_number import check_format
from engine.spec import FORMAT


def read_spec_file(path: Path) -> dict[str, Any]:
    """The settings in a TOML file, unchecked (`RunSpec.from_mapping` checks them).

    Raises:
        SpecError: the file cannot be read, is not TOML, or a newer reslab wrote it.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"cannot read {path}: {error.strerror or error}; expected a TOML file of settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"{path} is not TOML: {error}; expected lines such as epochs = 10") from None
    check_format(values, FORMAT, str(path), SpecError)
    return values
