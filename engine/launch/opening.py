"""How the app is to be opened. Loads nothing that the first paint need wait for."""

from __future__ import annotations

from dataclasses import dataclass

from engine.launch.ray import Cluster
from engine.paths import Folders
from engine.spec import RunSpec


@dataclass(frozen=True, slots=True)
class Opening:
    """With `specs` started, the first at once, or following the run `attached`; `exit` leaves when they have ended.

    Runs train on `cluster`, None: in the app's own process.
    """

    folders: Folders
    specs: tuple[RunSpec, ...] = ()
    exit: bool = False
    cluster: Cluster | None = None
    attached: int | None = None
