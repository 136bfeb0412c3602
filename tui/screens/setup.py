"""Set up: pick a dataset and an architecture, check what will run, press enter."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.content import Content
from textual.timer import Timer
from textual.widgets import Static

from engine.catalog.datasets import DATASETS
from engine.data.survey import published
from engine.errors import SpecError
from engine.settings import Value, settings_of
from engine.spec import RunSpec
from tui.commands import Commands
from tui.screens.base import LabScreen, follow
from tui.screens.decoding import is_agreed, result_or_error
from tui.screens.glancing import Glancing, spec_of_data
from tui.screens.menu_rows import MORE, DatasetMenu, ModelMenu, model_rows, more_models, more_text
from tui.screens.own_datasets import YOUR_FOLDER, dataset_rows, remembered
from tui.screens.plan import marked_lines, plan_lines, plan_text, survey_key
from tui.state import AppState
from tui.text import estimate_text, plain_content
from tui.widgets.data_pane import DataPane
from tui.widgets.key_bar import KeyBar
from tui.widgets.menu import Menu
from tui.widgets.mode_bar import ModeBar
from tui.widgets.recipe import RecipeForm

if TYPE_CHECKING:
    from tui.live import LiveRun  # numpy

_REST_S = 0.3  # the cursor must rest this long before a forecast starts
_REST_DURING_RUN_S = 1.0  # a forecast holds the GIL for a second, which delays keys and training
_RECIPE = {name: item for name, item in settings_of(RunSpec).items() if name not in ("dataset", "model")}


class SetupScreen(LabScreen[None]):
    """Three panes, with what will run below them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Pane", show=False, tooltip="go to the next pane"),
        Binding("shift+tab", "app.focus_previous", "Pane back", show=False, tooltip="go to the previous pane"),
        Binding("a", "add", "Add", tooltip="add all marked datasets × architectures to the queue"),
        Binding("A", "add_seeds", "Seeds", show=False, tooltip="add all marked pairs with several seeds"),
        Binding("v", "data", "Data", tooltip="look at the dataset: classes, pictures, what an audit finds"),
        Binding("t", "twin", "Twin", tooltip="queue it and its twin without (or with) shortcuts"),
        Binding("o", "report", "Report", tooltip="queue one of the report's experiments"),
        Binding("r", "recipe", "Recipe", show=False, tooltip="switch between the recipe fast and the defaults"),
        Binding("s", "small_stem", "Stem", tooltip="switch the stem: 7×7/2 with pool, 3×3/1 without"),
    ]

    def __init__(self, state: AppState, commands: Commands) -> None:
        super().__init__(state, commands)
        self._own: list[str] = []
        self._more: list[str] = []
        self._forecast_timer: Timer | None = None
        self._survey_timer: Timer | None = None

    def compose(self) -> ComposeResult:
        yield ModeBar("setup")
        with Horizontal(id="panes"):
            yield DatasetMenu(dataset_rows([]), id="datasets", title="Dataset")
            yield ModelMenu(model_rows([]), id="models", title="Architecture")
            names = sorted(_RECIPE, key=lambda name: not _RECIPE[name].common)
            yield RecipeForm({name: _RECIPE[name] for name in names}, self._check, id="recipe")
        with Horizontal(id="below"):
            plan = Static(id="plan", classes="pane", markup=False)
            plan.border_title = "What will run"
            yield plan
            pane = DataPane("data")
            self._glancing = Glancing(self, pane)
            yield pane
        yield KeyBar()

    def on_mount(self) -> None:
        self.query_one("#datasets", Menu).focus()
        if self.state.settings.first_spec is not None:
            self.show_spec(self.state.settings.first_spec)
        follow(self, self.state.listing, lambda listing: self._listed())
        follow(self, self.state.torch_loaded, lambda loaded: self.show_plan())
        follow(self, self.state.forecasts, lambda forecast: self.show_plan())
        follow(self, self.state.surveys, lambda survey: self.show_plan())
        follow(self, self.state.run_changed, self._run_changed)
        self.call_after_refresh(self._add_provided)  # the first paint need not wait for it

    @work
    async def _add_provided(self) -> None:
        """Add the networks and datasets of installed packages to the menus."""
        from engine.catalog.datasets import provided_datasets
        from engine.catalog.own_models import provided_models

        datasets, models = await self.commands.run_in_thread(lambda: (provided_datasets(), provided_models()))
        self._own += [info.name for info in datasets if info.name not in self._own]
        self._more += [info.name for info in models if info.name not in self._more]
        if self.is_mounted and self.query("#datasets"):  # else the screen is closing
            for menu, rows in zip(self._menus, (dataset_rows(self._own), model_rows(self._more)), strict=True):
                if len(rows) != len(menu.rows):
                    chosen = menu.chosen
                    menu.set_rows(rows)
                    menu.choose(chosen)

    def on_resize(self) -> None:
        """From 110 columns on there is room for the data beside the plan."""
        self.set_class(self.size.width >= 110, "broad")
        self.set_class(self.size.height >= 45, "tall")
        self.query_one("#plan").border_subtitle = "" if self.has_class("broad") else "v: look at the data"

    def on_screen_resume(self) -> None:
        self.state.surveys.clear()  # files may have changed meanwhile
        self._glancing.forget()
        self.show_plan()

    @property
    def dataset(self) -> str:
        return self.query_one("#datasets", Menu).chosen

    @property
    def model(self) -> str:
        return self.query_one("#models", Menu).chosen

    @property
    def recipe(self) -> RecipeForm:
        return self.query_one(RecipeForm)

    def show_spec(self, spec: RunSpec) -> None:
        """Show a spec in the panes, as after `train --tui`."""
        if spec.dataset not in (info.name for info in DATASETS):
            self._add_own(spec.dataset)
        self._add_model(spec.model)
        self.query_one("#datasets", Menu).choose(spec.dataset)
        self.recipe.set_values({name: getattr(spec, name) for name in _RECIPE})

    @on(Menu.Highlighted, "#datasets, #models")
    @on(Menu.Marked, "#datasets, #models")
    def _highlighted(self) -> None:
        self.show_plan()

    def _run_changed(self, live: LiveRun) -> None:
        if live.over:  # its memory is free again, so earlier forecasts are outdated
            self.show_plan()

    @on(RecipeForm.Changed)
    def _recipe_changed(self) -> None:
        self.show_plan()

    @on(Menu.Selected, "#datasets")
    def _dataset_chosen(self) -> None:
        if self.dataset == YOUR_FOLDER:
            self._ask_for_folder()
        else:
            self.query_one("#models", Menu).focus()

    @on(Menu.Selected, "#models")
    def _model_chosen(self) -> None:
        if self.model == MORE:
            self._ask_for_model()
        elif self._marked:
            self._add(1, show=True)
        elif not self._open_row_dialog():
            self._train()

    def _train(self) -> None:
        try:
            spec = RunSpec(self.dataset, self.model, **self.recipe.values)  # type: ignore[arg-type]
        except SpecError as error:
            self.commands.report(str(error), "error")
            return
        if published(spec) is None:  # there are files to decode
            self._train_if_agreed(spec)
        else:
            self.commands.start_run(spec)

    @work(exclusive=True, group="agree")
    async def _train_if_agreed(self, spec: RunSpec) -> None:
        if await is_agreed(spec, self.state, self.commands):
            self.commands.start_run(spec)

    def action_add(self) -> None:
        self._add(1)

    @property
    def _menus(self) -> tuple[Menu, Menu]:
        return self.query_one("#datasets", Menu), self.query_one("#models", Menu)

    @property
    def _marked(self) -> bool:
        return any(menu.marked for menu in self._menus)

    @property
    def _pairs(self) -> tuple[list[str], list[str]]:
        """The marked datasets and architectures, each defaulting to the one under the cursor."""
        datasets, models = self._menus
        return (
            [name for name in datasets.marked_or_chosen if name != YOUR_FOLDER],
            [name for name in models.marked_or_chosen if name != MORE],
        )

    def _specs(self, num_seeds: int = 1) -> list[RunSpec]:
        """The marked pairs as specs; reports it and returns none if there are no pairs.

        Raises:
            SpecError: a pair cannot be trained.
        """
        chosen, architectures = self._pairs
        if not chosen or not architectures:
            what = "an architecture" if chosen else "a dataset"
            self.commands.report(f"choose {what} first: enter on the last row lists more", "warning")
            return []
        from engine.combinations import combine

        return combine(chosen, architectures, dict(self.recipe.values), num_seeds)

    def _add(self, num_seeds: int, show: bool = False) -> None:
        try:
            self._queue(self._specs(num_seeds), show)
        except SpecError as error:
            self.commands.report(str(error), "error")

    def _queue(self, specs: list[RunSpec], show: bool = False) -> None:
        if specs:
            self.commands.queue.add(specs, show)
            for menu in self._menus:
                menu.unmark_all()
            self.show_plan()

    @work
    async def action_add_seeds(self) -> None:
        from tui.screens.dialogs import NumberQuestion

        question = NumberQuestion("How many seeds, from the recipe's seed upwards?", 5, 100)
        number = await self.app.push_screen_wait(question)
        if number is not None:
            self._add(number)

    def action_twin(self) -> None:
        """Queue each marked network with its twin; a twin that is also marked is queued once."""
        if not self._marked and self._open_row_dialog():
            return
        from engine.combinations import with_twin

        try:
            marked = self._specs()
            specs = list(dict.fromkeys(spec for one in marked for spec in with_twin(one)))
        except SpecError as error:
            self.commands.report(str(error), "error")
            return
        alone = list(dict.fromkeys(spec.model for spec in marked if len(with_twin(spec)) == 1))
        if alone:
            self.commands.report(
                f"{', '.join(alone)} has no twin without shortcuts; resnet18, 34, 50 and the CIFAR family have one"
            )
        if len(alone) < len({spec.model for spec in marked}):
            self._queue(specs)

    @work
    async def action_report(self) -> None:
        from engine.reports import PRESETS, find_preset
        from tui.screens.dialogs import Choice

        name = await self.app.push_screen_wait(Choice("The report's experiments, one choice each:", PRESETS))
        if name is not None:
            self.commands.queue.add(find_preset(name, {}).specs)

    def action_small_stem(self) -> None:
        stem = "imagenet" if self.recipe.values["stem"] == "small" else "small"
        self.recipe.set_values({"stem": stem})
        self.show_plan()

    def action_recipe(self) -> None:
        """Switch between `fast` and the defaults; settings that the recipe does not name stay unchanged."""
        from engine.recipes import find_recipe

        fast = find_recipe("fast")
        is_fast = all(self.recipe.values[name] == value for name, value in fast.items())
        defaults = {name: _RECIPE[name].default for name in fast}
        self.recipe.set_values(defaults if is_fast else dict(fast))
        self.commands.report("recipe: defaults" if is_fast else "recipe: fast, one epoch of one-cycle")
        self.show_plan()

    @work
    async def _ask_for_folder(self) -> None:
        from tui.screens.dialogs import FolderQuestion

        name = await self.app.push_screen_wait(FolderQuestion(str(self.recipe.values["columns"])))
        if name is not None:
            self._add_own(name)
            self.query_one("#models", Menu).focus()

    def _add_own(self, name: str) -> None:
        if name not in self._menus[0].ids:
            self._own.insert(0, name)
        self._show_own(name)

    def _listed(self) -> None:
        """Offer the user's own datasets that earlier runs were trained on."""
        self._own += [name for name in remembered(self.state.summaries) if name not in self._own]
        self._show_own(self.dataset)

    def _show_own(self, highlight: str) -> None:
        self._menus[0].set_rows(dataset_rows(self._own))
        self._menus[0].choose(highlight)
        self.show_plan()

    def _open_row_dialog(self) -> bool:
        """If the row under the cursor opens a dialog, open it and return True."""
        if self.dataset == YOUR_FOLDER:
            self._ask_for_folder()
        elif self.model == MORE:
            self._ask_for_model()
        else:
            return False
        return True

    @work
    async def _ask_for_model(self) -> None:
        from tui.screens.dialogs import ModelQuestion

        name = await self.app.push_screen_wait(ModelQuestion(more_models()))
        if name is not None:
            self._add_model(name)

    def _add_model(self, name: str) -> None:
        """Highlight an architecture; add it to the menu first if it is missing."""
        menu = self.query_one("#models", Menu)
        if name not in menu.ids:
            self._more.append(name)
            menu.set_rows(model_rows(self._more))
        menu.choose(name)
        self.show_plan()

    def _check(self, values: dict[str, Value]) -> None:
        """Raise SpecError if a recipe is not valid for any dataset."""
        RunSpec("digits", "resnet18" if self.model == MORE else self.model, **values)  # type: ignore[arg-type]

    def show_plan(self) -> None:
        if not (self.is_mounted and self.query("#datasets")):  # the screen may be closing
            return
        if self._marked:
            lines = marked_lines(*self._pairs, self.recipe.values)
        elif self.dataset == YOUR_FOLDER:
            lines = [
                plain_content("enter: choose your own images: folders of classes, a table, an .npz file, an archive")
            ]
        elif self.model == MORE:
            lines = [plain_content(more_text())]
        else:
            lines = self._plan()
        self.query_one("#plan", Static).update(Content("\n").join(lines))
        self._glancing.show(self._spec_of_data(), self.state.torch_loaded.value)

    def _spec_of_data(self) -> RunSpec | None:
        return spec_of_data(self.dataset, "resnet18" if self.model == MORE else self.model, self.recipe.values)

    def action_data(self) -> None:
        spec = self._spec_of_data()
        if spec is None:
            self.commands.report("choose a dataset first: enter on the last row lists more", "warning")
            return
        from tui.screens.data import DataScreen

        self.app.push_screen(DataScreen(self.state, self.commands, spec, self.recipe.set_values))

    def _plan(self) -> list[Content]:
        try:
            spec = RunSpec(self.dataset, self.model, **self.recipe.values)  # type: ignore[arg-type]
        except SpecError as error:  # the recipe is not valid for this architecture
            return [plain_content(str(error), "$warning")]
        found = self.state.surveys.get(survey_key(spec))
        if isinstance(found, str):
            return [plain_content(found, "$warning")]
        if found is None and published(spec) is None:
            self._schedule_survey(spec)
        lines = plan_lines(spec, estimate_text(spec, self.state.summaries), found)
        if self.state.settings.cluster is not None and len(lines) > 1:
            lines.insert(2, plain_content(self.state.settings.cluster.words))
        elif self.state.torch_loaded.value and len(lines) > 1:  # a single line: the network cannot take these images
            known = self.state.forecasts.get(spec)
            lines.insert(2, plain_content(known or "memory …", "" if known else "dim"))
            if known is None:
                self._schedule_forecast(spec)
        return lines

    def _schedule_survey(self, spec: RunSpec) -> None:
        """List files and read their headers in a thread once the cursor rests."""
        if self._survey_timer is not None:
            self._survey_timer.stop()
        self._survey_timer = self.set_timer(_REST_S, partial(self._survey, spec))

    @work(exclusive=True, group="survey")
    async def _survey(self, spec: RunSpec) -> None:
        lab = self.state.lab
        found = await self.commands.run_in_thread(lambda: result_or_error(lambda: lab.survey_now(spec)))
        self.state.surveys.add(survey_key(spec), found)

    def _schedule_forecast(self, spec: RunSpec) -> None:
        """Forecast memory in a thread once the cursor rests."""
        if self._forecast_timer is not None:
            self._forecast_timer.stop()
        rest_s = _REST_DURING_RUN_S if self.state.is_running else _REST_S
        self._forecast_timer = self.set_timer(rest_s, partial(self._forecast, spec))

    @work(exclusive=True, group="forecast")
    async def _forecast(self, spec: RunSpec) -> None:
        lab = self.state.lab
        found = await self.commands.run_in_thread(lambda: result_or_error(lambda: plan_text(lab.forecast(spec))))
        self.state.forecasts.add(spec, found)
