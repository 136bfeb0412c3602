"""`reslab predict`: a run's guesses about a person's own images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.cli.output import print_json
from engine.cli.parser import columns
from engine.device import import_torch
from engine.paths import Places
from engine.results.store import Store
from engine.text import percent, safe_text


def predict_command(places: Places, run: int, images: Sequence[Path], as_json: bool) -> int:
    """Print the top five of every image."""
    with Store(places.database) as store:
        details = store.details(run)
    import_torch()
    from engine.predicting import predict

    found = predict(details, places, images)
    if as_json:
        print_json(found)
        return 0
    for item in found:
        print(safe_text(item.file))
        rows = [("", percent(guess.confidence), safe_text(guess.class_name, 60)) for guess in item.guesses]
        print(columns(rows, right=(1,)))
    return 0
