"""Keeps Set up's data pane up to date: looks in a thread once the cursor rests. Imports no numpy at start-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.data.survey import Survey, published
from engine.errors import ReslabError, SpecError
from engine.settings import Value
from engine.spec import RunSpec
from tui.screens.base import LabScreen
from tui.screens.own_datasets import YOUR_FOLDER
from tui.screens.plan import survey_key
from tui.text import counted, dataset_title
from tui.widgets.data_pane import DataPane, DataView

if TYPE_CHECKING:
    from engine.data.audit.glance import Glance

_REST_S = 0.3
_LOOK = "v: look at all"


class Glancing:
    """The pane of `screen`. Set up calls `show` whenever the plan changes."""

    def __init__(self, screen: LabScreen[None], pane: DataPane) -> None:
        self._screen, self._pane = screen, pane
        self._wanted: tuple[object, ...] = ()
        self._views: dict[tuple[object, ...], tuple[str, DataView]] = {}

    def forget(self) -> None:
        """Files may have changed, or an audit may have been kept."""
        self._views.clear()
        self._wanted = ()

    def clear(self, text: str) -> None:
        """There is no dataset to look at."""
        self._wanted = ()
        self._pane.border_title = "Data"
        self._pane.show_text(text)

    def show(self, spec: RunSpec | None, may_load: bool) -> None:
        """Show what is known of `spec`'s data, and look for more."""
        if spec is None:
            self.clear("choose a dataset")
            return
        key = (*survey_key(spec), may_load)
        if (known := self._views.get(key)) is not None:
            self._present(*known)
        elif key != self._wanted:
            if (numbers := published(spec)) is not None:
                self._present(f"Data · {dataset_title(spec.dataset)}", _published_view(numbers))
            else:
                self.clear("looking …")
            self._screen.set_timer(_REST_S, lambda: self._look_if_wanted(key, spec, may_load))
        self._wanted = key

    def _look_if_wanted(self, key: tuple[object, ...], spec: RunSpec, may_load: bool) -> None:
        if key == self._wanted:
            self._screen.run_worker(self._look(key, spec, may_load), group="glance", exclusive=True)

    async def _look(self, key: tuple[object, ...], spec: RunSpec, may_load: bool) -> None:
        lab = self._screen.state.lab
        try:
            found = await self._screen.commands.run_in_thread(lambda: lab.look.glance(spec, may_load))
        except ReslabError:
            return  # the plan says it
        if found is None:
            return
        self._views[key] = _title(spec, found), _view(found, lab.look.num_findings(found, spec))
        if key == self._wanted and self._pane.is_attached:
            self._present(*self._views[key])

    def _present(self, title: str, view: DataView) -> None:
        self._pane.border_title, self._pane.border_subtitle = title, _LOOK
        self._pane.show(view)


def spec_of_data(dataset: str, model: str, recipe: Mapping[str, Value]) -> RunSpec | None:
    """The dataset under Set up's cursor with the recipe; None if there is none, or the recipe is not valid."""
    try:
        return None if dataset == YOUR_FOLDER else RunSpec(dataset, model, **recipe)  # type: ignore[arg-type]
    except SpecError:
        return None


def _published_view(found: Survey) -> DataView:
    parts = [("train", (found.num_train,)), ("val", (found.num_val,)), ("test", (found.num_test,))]
    facts = [f"{found.shape} in {found.shape.num_classes} classes, as published"]
    return DataView(("images",), [(name, counts) for name, counts in parts if counts[0]], facts)


def _title(spec: RunSpec, found: Glance) -> str:
    total = sum(part.total for part in found.parts)
    left_out = f", {counted(found.num_left_out, 'file')} left out" if found.num_left_out else ""
    about = "" if found.is_exact else "about "
    return f"Data · {dataset_title(spec.dataset)} · {about}{total:,} usable{left_out}"


def _view(found: Glance, num_findings: int | None) -> DataView:
    kinds = ", ".join(f"{kind.name} {kind.number:,}" for kind in found.kinds)
    facts = [kinds] if kinds else []
    if num_findings is not None:
        facts.append(f"{counted(num_findings, 'finding')} of the audit" if num_findings else "audit: nothing found")
    parts = [(part.part, part.counts) for part in found.parts]
    return DataView(found.class_names, parts, facts, found.samples)
