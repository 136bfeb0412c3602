"""The command `reslab`: alone it opens the app, with words it is the engine's command line."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.opening import Opening


def main() -> int:
    if len(sys.argv) == 1:  # the app's first paint need not wait for the parser of the command line
        from engine.opening import Opening
        from engine.paths import find_places

        return open_app(Opening(find_places()))
    from engine.cli import main as command_line

    return command_line(sys.argv[1:], open_app)


def open_app(opening: Opening) -> int:
    """Open the app, with the first of its specs started and the others waiting; returns the process's exit code."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if None in streams or not (sys.stdin.isatty() and sys.stdout.isatty()):  # None: it was closed
        print("reslab: the app needs a terminal; without one use reslab train DATASET MODEL", file=sys.stderr)
        return 2
    gc.disable()  # until the first paint: nothing is garbage before it, and looking for some takes a tenth of the time
    from engine.log import log_to
    from engine.memory.heap import keep_one_heap
    from tui.app import ReslabApp
    from tui.widgets.sharp import find_image_widget

    keep_one_heap()  # before the first thread: a run will live in one
    log_to(opening.places.log)  # a warning of torch's, or a curve that waits for a locked record: not on the screen
    if (widget := find_image_widget()) is not None:
        from tui.widgets.gallery import Gallery

        Gallery.sharp = widget
    app = ReslabApp(opening.places, opening.specs, opening.exit, cluster=opening.cluster, attached=opening.attached)
    app.run()
    code = app.return_code or 0
    if not app.abandoned:
        app.session.wait()
    if app.abandoned or app.session.busy:  # an interpreter that ends while a thread is inside torch may crash
        sys.stdout.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
