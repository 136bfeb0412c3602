"""Before a run decodes its images: asks a person whether to begin, if that takes long or much of the disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from engine.errors import ReslabError
from engine.spec import RunSpec
from tui.commands import Commands
from tui.screens.plan import survey_key
from tui.state import AppState

T = TypeVar("T")


async def is_agreed(spec: RunSpec, state: AppState, commands: Commands) -> bool:
    """Whether to start `spec` now. Call this in a worker: its files may still have to be listed.

    A dataset that cannot be surveyed is agreed to: the run says what is wrong with it.
    """
    found = state.surveys.get(survey_key(spec))
    if found is None:
        lab = state.lab
        found = await commands.run_in_thread(lambda: result_or_error(lambda: lab.survey_now(spec)))
        state.surveys.add(survey_key(spec), found)
    if isinstance(found, str) or found.decoding is None or not found.decoding.should_ask:
        return True
    return await commands.ask(f"{found.decoding.words[0].upper()}{found.decoding.words[1:]}. Start?")


def result_or_error(work: Callable[[], T]) -> T | str:
    """The result of `work`, or the message of its error."""
    try:
        return work()
    except ReslabError as error:
        return str(error)
