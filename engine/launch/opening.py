"""How to open the app. Loads nothing that would delay the first paint."""

from __future__ import annotations

from dataclasses import dataclass

from engine.launch.ray import Cluster
from engine.paths import Folders
from engine.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Opening:
    """Start `specs`, the first at once, or follow the run `attached`; `exit` leaves the app when they have ended.

    Runs train on `cluster`; None: in the app's process.
    """

    folders: Folders
    specs: tuple[RunSpec, ...] = ()
    exit: bool = False
    cluster: Cluster | None = None
    attached: int | None = None
