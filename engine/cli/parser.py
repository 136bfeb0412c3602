"""The command line's grammar. The options of `train` are generated from the settings of `RunSpec`. Loads no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from engine.catalog.datasets import absolute_dataset, kind_of
from engine.catalog.own_models import absolute_model
from engine.cli.output import printable
from engine.combinations import seeds_of
from engine.errors import SpecError
from engine.launch.ray import Cluster, find_cluster
from engine.paths import absolute_file, absolute_weights
from engine.recipes import RECIPE_HELP, RECIPES, find_recipe
from engine.reports import PRESETS
from engine.settings import Setting, Value, settings_of
from engine.spec import RunSpec
from engine.spec_files import read_spec_file

_STEERING = {
    "stop": "end a run in another process after its step, save it, and wait until it has ended",
    "pause": "pause a run in another process before its next step; resume continues it",
}
_GROUPS = {"data": "data", "model": "network", "recipe": "recipe", "run": "run"}


class _Parser(argparse.ArgumentParser):
    """Reports errors on one line, without the usage before them."""

    def error(self, message: str) -> NoReturn:
        raise SpecError(f"{message}; {self.prog} --help lists the commands and options")


def build_parser(settings: bool = True) -> argparse.ArgumentParser:
    """The whole grammar; without `settings` the options of `train` are left out: other commands start faster."""
    folders = _folders()
    parser = _Parser(
        prog="reslab",
        parents=[folders],
        description="A keyboard-driven terminal lab for image classification. Alone, it opens the app.",
    )
    _add_where_to_train(parser, detach=False)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")

    def add(name: str, help: str, json: bool = True, **more: Any) -> argparse.ArgumentParser:
        command: argparse.ArgumentParser = commands.add_parser(
            name, help=help, description=f"{help[0].upper()}{help[1:]}.", parents=[folders], **more
        )
        if json:
            command.add_argument("--json", action="store_true", help="JSON on stdout, and nothing else")
        return command

    _add_training(add, settings)
    _add_reading(add)
    return parser


def _add_training(add: Callable[..., argparse.ArgumentParser], settings: bool) -> None:
    """Commands that train, or say what training would take."""
    train = add("train", "train one run", formatter_class=argparse.RawDescriptionHelpFormatter)
    if settings:
        _add_settings(train)
        train.add_argument("--seeds", metavar="N", type=int, default=1, help="train N times, from this seed upwards")
        _add_run_options(train)
    evaluate = add(
        "evaluate",
        "evaluate given weights on a dataset's test set, without training; the result is a run like any other",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if settings:
        _add_settings(evaluate)
        _add_run_options(evaluate)
    resume = add("resume", "continue a run that was interrupted, from its last checkpoint, or one that is paused")
    resume.add_argument("run", type=int, metavar="RUN")
    resume.add_argument(
        "--dataset",
        metavar="PATH",
        type=_found_dataset,
        help="where the run's images are now, if they have moved; checked by their SHA-256 (for other datasets: "
        "--data-dir)",
    )
    _add_where_to_train(resume)
    for name, text in _STEERING.items():
        add(name, text).add_argument("run", type=int, metavar="RUN")
    attach = add("attach", "follow a run in another process: on Ray, or started with --detach")
    attach.add_argument("run", type=int, metavar="RUN")
    attach.add_argument("--tui", action="store_true", help="in the app, on the live screen")
    report = add(
        "report",
        "repeat one of the report's experiments, with the published figures beside your own",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    report.add_argument("report", metavar="REPORT", help="; ".join(f"{name}: {text}" for name, text in PRESETS.items()))
    if settings:
        report.add_argument("--dataset", metavar="DATASET", help="use another dataset")
        _add_groups(report)
    forecast = add(
        "forecast",
        "show how much memory a run would take, and whether it fits",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    autotune = add(
        "autotune",
        "list the settings measured to be fastest on this processor; with DATASET MODEL measure now",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    autotune.add_argument("--forget", action="store_true", help="delete them all; the next runs measure again")
    if settings:
        _add_settings(forecast)
        _add_settings(autotune)
        autotune.usage = f"{autotune.prog} [DATASET MODEL [options] | --forget]"


def _add_reading(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Commands that read, export or delete what is stored."""
    add("runs", "list every run, newest first")
    add("show", "show one run: settings, metric tables, per-class figures").add_argument("run", type=int, metavar="RUN")
    predictions = add("predictions", "print a run's final test predictions as CSV")
    predictions.add_argument("run", type=int, metavar="RUN")
    audit = add(
        "audit",
        "look at a dataset before training: counts, sizes, duplicates, unusable files",
        epilog="Exit status: 0 whatever is found; 2 if the dataset cannot be read; 130 if stopped.",
    )
    audit.add_argument("dataset", metavar="DATASET", help=settings_of(RunSpec)["dataset"].help)
    audit.add_argument("--run", type=int, metavar="N", help="also look with the network of run N")
    for item in settings_of(RunSpec).values():
        if (item.group == "data" and item.name != "dataset") or item.name == "batch_size":
            _add_setting(audit, item)
    compare = add("compare", "compare runs: metric tables side by side, and whether the difference is significant")
    compare.add_argument("runs", type=int, nargs="+", metavar="RUN")
    predict = add(
        "predict",
        "classify your own images with a run's weights: top five with confidence",
        epilog="Exit status: 0; 1 if a file named here could not be used; 2 if none could.",
    )
    predict.add_argument("run", type=int, metavar="RUN")
    predict.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE", help="files, or folders with all their images"
    )
    export = add("export", "write a run as plain files: JSON, CSV and TOML")
    export.add_argument("run", type=int, metavar="RUN")
    export.add_argument("--to", metavar="FOLDER", type=Path, help="default: exports/RUN in the home folder")
    delete = add("delete", "delete a run: its rows and its weights", json=False)
    delete.add_argument("run", type=int, metavar="RUN")
    datasets = add("datasets", "list the datasets, and their decoded images in the cache")
    datasets.add_argument("--delete", metavar="KEPT", help="delete the decoded images of this name, or all")
    models = add("models", "list the architectures")
    models.add_argument("family", nargs="?", metavar="timm", help="list timm's networks instead")
    models.add_argument("--all", action="store_true", help="include the rest of torchvision's classification networks")
    add("doctor", "check versions, device, NVML, SQLite, terminal and folders")


def _folders() -> _Parser:
    parser = _Parser(add_help=False)
    parser.add_argument(
        "--home", metavar="DIR", default=argparse.SUPPRESS, help="folder of runs and weights (RESLAB_HOME)"
    )
    parser.add_argument("--data-dir", metavar="DIR", default=argparse.SUPPRESS, help="folder of datasets (RESLAB_DATA)")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    described = settings_of(RunSpec)
    parser.usage = f"{parser.prog} DATASET MODEL [options]"
    parser.add_argument("dataset", nargs="?", metavar="DATASET", help=described["dataset"].help)
    parser.add_argument("model", nargs="?", metavar="MODEL", help=described["model"].help)
    parser.add_argument(
        "--spec",
        metavar="FILE.toml",
        type=Path,
        nargs="+",
        default=[],
        help="settings from a file, overridden by options; several files are several runs, one after another",
    )
    parser.add_argument("--recipe", metavar="|".join(RECIPES), default="report", help=RECIPE_HELP)
    _add_groups(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tui", action="store_true", help="open the app on the live screen with this run started")
    parser.add_argument("--exit", action="store_true", help="with --tui: leave the app when the run ends")
    _add_where_to_train(parser)


def _add_where_to_train(parser: argparse.ArgumentParser, detach: bool = True) -> None:
    """On Ray, or detached. An option given both before and after the command: the latter counts."""
    nothing: dict[str, Any] = {"default": argparse.SUPPRESS}
    group = parser.add_argument_group("where")
    group.add_argument(
        "--on", metavar="ray[:ADDRESS]", help="train on Ray: on this machine, or on the cluster at ADDRESS", **nothing
    )
    group.add_argument(
        "--num-workers",
        metavar="N",
        type=int,
        help="with --on: workers that share each batch of a run; several runs then come one after another",
        **nothing,
    )
    group.add_argument(
        "--sync-batchnorm", action="store_true", help="with --on: batch-norm over all workers", **nothing
    )
    if detach:
        group.add_argument("--detach", action="store_true", help="let the run continue without this terminal")


def _add_groups(parser: argparse.ArgumentParser) -> None:
    described = settings_of(RunSpec)
    for key, title in _GROUPS.items():
        group = parser.add_argument_group(title)
        for item in described.values():
            if item.group == key and item.name not in ("dataset", "model"):
                _add_setting(group, item)


def _add_setting(group: argparse._ActionsContainer, item: Setting) -> None:
    text = f"{item.help} ({item.expected}; default {item.show(item.default)})".replace("%", "%%")
    if item.kind is bool:
        group.add_argument(
            item.flag, action=argparse.BooleanOptionalAction, default=None, help=text.replace("true or false; ", "")
        )
    else:
        metavar = {int: "N", float: "X"}.get(item.kind, "|".join(item.choices) or "TEXT")
        group.add_argument(item.flag, metavar=metavar, help=text)


def specs_from(arguments: argparse.Namespace) -> list[RunSpec]:
    """The runs of a command line: each file's settings, overridden by the options, with every seed.

    Raises:
        SpecError: a setting is not valid, or the dataset or the architecture is missing.
    """
    num_seeds = getattr(arguments, "seeds", 1)
    if not 1 <= num_seeds <= 1000:
        raise SpecError(f"seeds: {num_seeds} is not valid; expected a whole number from 1 to 1,000")
    given = given_settings(arguments)
    files = [read_spec_file(path) for path in arguments.spec] or [{}]
    recipe = find_recipe(arguments.recipe)
    given = _without_training(given) if arguments.command == "evaluate" else given
    specs = [_spec_from({**recipe, **file, **given}, arguments.command) for file in files]
    return [one for spec in specs for one in seeds_of(spec, num_seeds)]


def _without_training(given: dict[str, Value]) -> dict[str, Value]:
    """The options of `evaluate`: 0 epochs, whatever recipe and files say."""
    if given.get("epochs", 0) != 0:
        raise SpecError("epochs: evaluate trains nothing; leave out --epochs, or use reslab train", "epochs")
    return {**given, "epochs": 0, "warmup_epochs": 0.0}


def _spec_from(values: dict[str, Any], command: str) -> RunSpec:
    missing = [name for name in ("dataset", "model") if name not in values]
    if missing:
        raise SpecError(
            f"{command} needs a dataset and a model; missing: {' and '.join(missing)}. "
            f"Example: reslab {command} digits resnet18"
        )
    if command == "evaluate" and "weights" not in values:
        raise SpecError("weights: missing; evaluate needs --weights PATH, run:NUMBER or imagenet", "weights")
    return RunSpec.from_mapping(_with_absolute_paths(values))


def cluster_from(arguments: argparse.Namespace) -> Cluster | None:
    """Where `--on` lets runs train; None: on this machine, without Ray.

    Raises:
        ReslabError: the value is not valid, or Ray is not installed.
    """
    on, num_workers = getattr(arguments, "on", None), getattr(arguments, "num_workers", None)
    sync_batchnorm = getattr(arguments, "sync_batchnorm", False)
    if on is None:
        if num_workers is not None or sync_batchnorm:
            option = "--sync-batchnorm" if num_workers is None else "--num-workers"
            raise SpecError(f"{option} is for runs on Ray; add --on ray, or leave it out")
        return None
    return find_cluster(on, 1 if num_workers is None else num_workers, sync_batchnorm)


def given_settings(arguments: argparse.Namespace) -> dict[str, Value]:
    """The settings given on the command line, checked one by one.

    Raises:
        SpecError: one of them is not valid.
    """
    values: dict[str, Value] = {}
    for name, item in settings_of(RunSpec).items():
        given = getattr(arguments, name, None)
        if given is not None:
            values[name] = given if item.kind is bool else item.parse(given)
    return _with_absolute_paths(values)


def _with_absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Resolve the paths of images, network and weights against the current folder: valid from anywhere."""
    dataset, model, weights = values.get("dataset"), values.get("model"), values.get("weights")
    if isinstance(dataset, str):
        values = {**values, "dataset": _found_dataset(dataset)}
    if isinstance(model, str):
        values = {**values, "model": absolute_model(model)}
    if isinstance(weights, str):
        values = {**values, "weights": absolute_weights(weights)}
    if isinstance(exclude := values.get("exclude"), str):
        values = {**values, "exclude": absolute_file(exclude)}
    return values


def _found_dataset(text: str) -> str:
    """The dataset's full name; says so if a path alone was given."""
    name = absolute_dataset(text)
    if kind_of(text) is None and kind_of(name) is not None:
        print(f"{printable(text)} is read as {printable(name)}", file=sys.stderr)
    return name


def wants_settings(argv: Sequence[str]) -> bool:
    """Whether this command line needs the settings' options."""
    return any(command in argv for command in ("train", "evaluate", "report", "forecast", "autotune"))


def columns(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Rows of cells as aligned text, two spaces apart; the columns in `right` are right-aligned."""
    table = [list(map(printable, row)) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
