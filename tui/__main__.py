"""The command `reslab`: alone it opens the app, with words it is the engine's command line."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.launch.opening import Opening


def main() -> int:
    if len(sys.argv) == 1:  # the app's first paint need not wait for the parser of the command line
        from engine.launch.opening import Opening
        from engine.paths import find_folders

        return open_app(Opening(find_folders()))
    from engine.cli import main as command_line

    return command_line(sys.argv[1:], open_app)


def open_app(opening: Opening) -> int:
    """Open the app, with the first of its specs started and the others waiting; returns the process's exit code."""
    if (problem := _unfit_terminal()) is not None:
        print(f"reslab: {problem} use reslab train DATASET MODEL", file=sys.stderr)
        return 2
    gc.disable()  # until the first paint: nothing is garbage before it, and looking for some takes a tenth of the time
    from engine.log import log_to
    from engine.memory.heap import keep_one_heap
    from tui.app import ReslabApp
    from tui.widgets.sharp import find_image_widget

    keep_one_heap()  # before the first thread: a run will live in one
    log_to(opening.folders.log)  # a warning of torch's, or a curve that waits for a locked record: not on the screen
    if (widget := find_image_widget()) is not None:
        from tui.widgets.gallery import Gallery

        Gallery.sharp = widget
    app = ReslabApp(opening.folders, opening.specs, opening.exit, cluster=opening.cluster, attached=opening.attached)
    leaving = app.leaving
    with leaving.on_signals():
        app.run()
        if not leaving.abandoned:
            app.session.wait()
        code = app.return_code or 0
        # An interpreter that ends while a thread is inside torch may crash; without a terminal it has nowhere to write.
        if leaving.abandoned or leaving.hung_up or app.session.busy:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(code)
    return code


def _unfit_terminal() -> str | None:
    """Why the app cannot be drawn here; None where it can."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if None in streams or not (sys.stdin.isatty() and sys.stdout.isatty()):  # None: it was closed
        return "the app needs a terminal; without one"
    if (name := os.environ.get("TERM", "")) in ("dumb", "unknown"):
        return f"the app cannot be drawn on a terminal of the kind TERM={name}; there"
    return None


if __name__ == "__main__":
    sys.exit(main())
