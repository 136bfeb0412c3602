"""The command line: the same engine without the app.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 the run failed or diverged, 2 bad input, 130
stopped. `audit` ends with 0 whatever it finds. What loads torch is imported inside the command that needs it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from engine.cli.notices import announce_code
from engine.cli.output import Output, standard_streams
from engine.cli.parser import build_parser, cluster_from, given_settings, specs_from, wants_settings
from engine.environment import check_environment
from engine.errors import OutputError, ReslabError, SpecError, TorchError
from engine.failures import describe_failure, describe_os_error
from engine.launch.opening import Opening
from engine.log import log_to
from engine.paths import Folders, find_folders
from engine.reports import find_preset
from engine.text import safe_text

if TYPE_CHECKING:
    from engine.lab import Lab

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

OpenApp = Callable[[Opening], int]
"""Opens the app; returns the exit code."""


def main(argv: Sequence[str], open_app: OpenApp) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    opened: list[Opening] = []
    with standard_streams() as out:

        def open_later(opening: Opening) -> int:
            opened.append(opening)
            return 0

        try:
            code = _run_explained(lambda: _dispatch(argv, open_later))
        except SystemExit:  # --help
            if lost := _finish(out):
                return lost
            raise
        lost = _finish(out)
        code = code or lost
    return _run_explained(lambda: open_app(opened[0])) if opened else code


def _run_explained(work: Callable[[], int | None]) -> int:
    """The exit code of `work`; an error is printed as one sentence."""
    try:
        return work() or 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except OutputError:  # `_finish` reports it
        return 0
    except ReslabError as error:
        text, code = str(error), FAILED if isinstance(error, TorchError) else BAD_INPUT
    except OSError as error:  # before the log was open
        text, code = describe_os_error(error), FAILED
    print(f"reslab: {safe_text(text)}", file=sys.stderr)
    return code


def _finish(out: Output) -> int:
    """Flush standard output. A reader may close its pipe early, as in `reslab runs | head -1`: that is not an error."""
    try:
        out.finish()
    except OutputError as error:
        if error.reader_left:
            return 0
        print(f"reslab: {safe_text(error)}", file=sys.stderr)
        return FAILED
    return 0


def _dispatch(argv: Sequence[str], open_app: OpenApp) -> int:
    arguments = build_parser(wants_settings(argv)).parse_args(argv)
    if arguments.command != "doctor":  # which reports what is wrong with it
        check_environment()
    folders = find_folders(getattr(arguments, "home", None), getattr(arguments, "data_dir", None))
    log_to(folders.log)  # warnings go to the file, not to the screen
    try:
        return _run_command(arguments, folders, open_app)
    except ReslabError:
        raise
    except Exception as error:
        text = describe_failure(error, folders, f"reslab {arguments.command} failed")
        print(f"reslab: {safe_text(text)}", file=sys.stderr)
        return FAILED


def _run_command(arguments: argparse.Namespace, folders: Folders, open_app: OpenApp) -> int:
    match arguments.command:
        case None:
            return open_app(Opening(folders, cluster=cluster_from(arguments)))
        case "train" | "evaluate" | "resume" | "attach":
            return _train(arguments, folders, open_app)
        case "doctor":
            from engine.cli.doctor import doctor_command

            return doctor_command(folders, arguments.json)
    from engine.lab import Lab  # with SQLite, which --help and the app's first paint need not wait for

    return _run_lab_command(arguments, Lab(folders))


def _run_lab_command(arguments: argparse.Namespace, lab: Lab) -> int:
    match arguments.command:
        case "stop":
            from engine.cli.control import stop_command

            return stop_command(arguments.run, lab, arguments.json)
        case "pause":
            from engine.cli.control import pause_command

            return pause_command(arguments.run, lab, arguments.json)
        case "report":
            from engine.cli.report import report_command

            return report_command(find_preset(arguments.report, given_settings(arguments)), lab, arguments.json)
        case "forecast":
            from engine.cli.forecast import forecast_command

            specs = specs_from(arguments)
            announce_code((spec.dataset, spec.model) for spec in specs)
            return max(forecast_command(spec, lab, arguments.json) for spec in specs)
        case "audit":
            from engine.cli.audit import audit_command

            return audit_command(arguments, lab)
        case "autotune":
            return _autotune(arguments, lab)
        case "predict":
            from engine.cli.predict import predict_command

            announce_code([("", lab.summary(arguments.run).model)])
            return predict_command(lab, arguments.run, arguments.images, arguments.json)
    from engine.cli import runs

    match arguments.command:
        case "datasets":
            from engine.cli.datasets import datasets_command

            return datasets_command(lab.folders, arguments.delete, arguments.json)
        case "models":
            return runs.list_models(arguments.family, arguments.all, arguments.json)
        case "runs":
            return runs.list_runs(lab, arguments.json)
        case "show":
            return runs.show_run(lab, arguments.run, arguments.json)
        case "predictions":
            return runs.print_predictions(lab, arguments.run, arguments.json)
        case "compare":
            return runs.compare_runs(lab, arguments.runs, arguments.json)
        case "export":
            return runs.export_run(lab, arguments.run, arguments.to, arguments.json)
        case _:
            return runs.delete_run(lab, arguments.run)


def _autotune(arguments: argparse.Namespace, lab: Lab) -> int:
    """List the choices, delete them with `--forget`, or measure now, given a dataset and a model."""
    from engine.cli import autotune

    named = bool(arguments.dataset or arguments.spec)
    if arguments.forget and named:
        raise SpecError("--forget deletes all choices; leave out the dataset and the model")
    if arguments.forget:
        return autotune.forget_command(lab)
    if not named and given_settings(arguments):
        raise SpecError("dataset and model: missing; autotune needs both to measure, or neither to list its choices")
    if not named:
        return autotune.list_command(lab, arguments.json)
    specs = specs_from(arguments)
    announce_code((spec.dataset, spec.model) for spec in specs)
    return max(autotune.measure_command(spec, lab, arguments.json) for spec in specs)


def _train(arguments: argparse.Namespace, folders: Folders, open_app: OpenApp) -> int:
    """Start, resume or follow runs; with `--tui` in the app."""
    if arguments.command == "attach":
        if arguments.tui:
            return open_app(Opening(folders, attached=arguments.run))
        from engine.cli.training import attach_command

        return attach_command(arguments.run, folders, arguments.json)
    detach, cluster = getattr(arguments, "detach", False), cluster_from(arguments)
    if arguments.command == "resume":
        from engine.cli.training import resume_command

        return resume_command(arguments.run, folders, arguments.json, cluster, detach, arguments.dataset)
    specs = specs_from(arguments)
    if arguments.exit and not arguments.tui:
        raise SpecError("--exit leaves the app when the run ends; it needs --tui")
    if arguments.tui:
        if detach:
            raise SpecError("--detach leaves the terminal at once and --tui needs it; leave out one of them")
        return open_app(Opening(folders, tuple(specs), arguments.exit, cluster))
    from engine.cli.training import train_all

    announce_code((spec.dataset, spec.model) for spec in specs)
    return train_all(specs, folders, arguments.json, cluster, detach)
