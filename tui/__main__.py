"""The command `reslab`: without arguments it opens the app, with arguments it runs the engine's command line."""

from __future__ import annotations

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.launch.opening import Opening


def main() -> int:
    if len(sys.argv) == 1:  # keep the command line's parser out of the first paint
        from engine.launch.opening import Opening
        from engine.paths import find_folders

        return open_app(Opening(find_folders()))
    from engine.cli import main as command_line

    return command_line(sys.argv[1:], open_app)


def open_app(opening: Opening) -> int:
    """Open the app, start its first spec and queue the others. Returns the process's exit code."""
    if (problem := _terminal_problem()) is not None:
        print(f"reslab: {problem} use reslab train DATASET MODEL", file=sys.stderr)
        return 2
    gc.disable()  # until the first paint: there is no garbage before it, and collecting takes a tenth of the time
    from engine.log import log_to
    from engine.memory.heap import keep_one_heap
    from tui.app import ReslabApp
    from tui.widgets.sharp import find_image_widget

    keep_one_heap()  # before the first thread, because runs live in threads
    log_to(opening.folders.log)  # warnings from torch or about a locked database must not reach the screen
    if (widget := find_image_widget()) is not None:
        from tui.widgets.gallery import Gallery

        Gallery.sharp = widget
    app = ReslabApp(opening.folders, opening.specs, opening.exit, cluster=opening.cluster, attached=opening.attached)
    shutdown = app.shutdown
    with shutdown.on_signals():
        app.run()
        if not shutdown.abandoned:
            app.session.wait()
        code = app.return_code or 0
        # Python may crash if it exits while a thread is inside torch; without a terminal it has nowhere to write.
        if shutdown.abandoned or shutdown.hung_up or app.session.busy:
            with suppress(OSError):
                sys.stdout.flush()
            os._exit(code)
    return code


def _terminal_problem() -> str | None:
    """Why this terminal cannot show the app; None if it can."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    if None in streams or not (sys.stdin.isatty() and sys.stdout.isatty()):  # None: closed
        return "the app needs a terminal; without one"
    if (name := os.environ.get("TERM", "")) in ("dumb", "unknown"):
        return f"the app does not work with TERM={name};"
    return None


if __name__ == "__main__":
    sys.exit(main())
