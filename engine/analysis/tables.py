"""The metric tables as rows of text, the same in the app and on the command line. Loads no torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from engine.catalog.models import short_model
from engine.data.manifest import left_out_text
from engine.events import ClassMetrics, Metrics, Resolved, RunContinued, RunStarted, SettingsTuned, TuningChecked
from engine.records import MemoryRecord, RunDetails, RunSummary
from engine.settings import settings_of
from engine.spec import RunSpec, unknown_settings
from engine.text import counted, memory_size, percent, safe_text

if TYPE_CHECKING:
    from engine.analysis.seeds import SeedGroup

# In the report's order; its word for accuracy was "match".
METRIC_NAMES: tuple[tuple[str, str], ...] = (
    ("accuracy", "accuracy"),
    ("balanced_accuracy", "balanced accuracy"),
    ("precision", "macro precision"),
    ("recall", "macro recall"),
    ("f1", "macro F1"),
)


def metric_rows(*columns: Metrics | None) -> list[tuple[str, ...]]:
    """One row per metric: its name, then each column; the loss last."""
    rows = [(title, *(_figure(column, name) for column in columns)) for name, title in METRIC_NAMES]
    return [*rows, ("loss", *map(_loss, columns))]


def result_table(details: RunDetails) -> list[tuple[str, ...]]:
    """The final table: untrained and trained on the test set, and the last validation if there was one. A run of 0
    epochs was evaluated once.
    """
    record = details.record
    val = [item for item in details.evaluations if item.split == "val"]
    if record.spec.get("epochs") == 0:
        figures = [("evaluated", record.final), *(("validation", item.metrics) for item in val[-1:])]
        return [("", *(title for title, _ in figures)), *metric_rows(*(metrics for _, metrics in figures))]
    part = details.memory.micro_batch
    trained = f"trained, parts of {part}" if part is not None else "trained"
    if not val:
        return [("", "untrained", trained), *metric_rows(record.untrained, record.final)]
    head = ("", "untrained", trained, f"validation, epoch {val[-1].epoch}")
    return [head, *metric_rows(record.untrained, record.final, val[-1].metrics)]


def comparison_rows(
    records: Sequence[RunSummary], same_images: bool, micro_batches: Sequence[int | None] = ()
) -> list[tuple[str, ...]]:
    """Metrics as rows, runs as columns. If all runs were tested on the `same_images`, the best value is marked, and for
    two runs there is the difference of the second, in points; otherwise neither would mean anything. If any run was
    trained in parts of batches, `micro_batches` has the sizes.
    """
    two = same_images and len(records) == 2
    rows = [
        ("", *(f"{short_model(record.model)} #{record.run}" for record in records), *(("difference",) if two else ()))
    ]
    for name, title in METRIC_NAMES:
        values = [getattr(record.final, name) if record.final else None for record in records]
        rows.append((title, *_marked(values, same_images and max, percent), *((_points(*values),) if two else ())))
    losses = [record.final.loss if record.final else None for record in records]
    rows.append(("loss", *_marked(losses, same_images and min, lambda value: f"{value:.4f}"), *(("",) if two else ())))
    rows.append(("images/s", *(_whole(record.train_images_per_s) for record in records), *(("",) if two else ())))
    rows.append(("time", *(duration(record.elapsed_s) for record in records), *(("",) if two else ())))
    if any(micro_batches):
        rows.append(("batches in parts of", *(str(size or "whole") for size in micro_batches), *(("",) if two else ())))
    return rows


def group_rows(groups: Sequence[SeedGroup]) -> list[tuple[str, ...]]:
    """Accuracy over several seeds of one spec: mean, standard deviation (n - 1), minimum and maximum."""
    rows: list[tuple[str, ...]] = [("seeds of one spec", "runs", "seeds", "mean", "std", "range")]
    for group in groups:
        runs, seeds = (", ".join(map(str, numbers)) for numbers in (group.runs, group.seeds))
        span = " to ".join(map(percent, group.range))
        rows.append((group.name, runs, seeds, percent(group.mean), percent(group.std), span))
    return rows


def _marked(
    values: Sequence[float | None],
    best_of: Literal[False] | Callable[[list[float]], float],
    text_of: Callable[[float], str],
) -> list[str]:
    """The values as text, the best with a star; none if all are equal."""
    known = [value for value in values if value is not None]
    best = best_of(known) if best_of and len(set(known)) > 1 else None
    return ["–" if value is None else text_of(value) + (" *" if value == best else "  ") for value in values]


def _points(a: float | None, b: float | None) -> str:
    return "–" if a is None or b is None else f"{100 * (b - a):+.3f}".replace("-", "−")


def _whole(value: float | None) -> str:
    return f"{value:,.0f}" if value else "–"


def differing_rows(differing: Mapping[str, Sequence[Any]]) -> list[tuple[str, ...]]:
    """The settings that differ, one row each."""
    return [
        (name.replace("_", " "), *("none" if value is None else str(value) for value in values))
        for name, values in differing.items()
    ]


def class_rows(names: Sequence[str], per_class: Sequence[ClassMetrics]) -> list[tuple[str, str, str, str, str]]:
    """One row per class: its name, precision, recall, F1, number of images."""
    return [
        (safe_text(name, 40), *_class_figures(item), f"{item.support:,}")
        for name, item in zip(names, per_class, strict=True)
    ]


def _class_figures(item: ClassMetrics) -> tuple[str, str, str]:
    """A class without images has no recall; earlier versions recorded 0 there."""
    recall, f1 = (item.recall, item.f1) if item.support else (None, None)
    return percent(item.precision), percent(recall), percent(f1)


def data_lines(notes: Sequence[str], left_out: Mapping[str, int]) -> list[str]:
    """Notes on a run's weights and images, one sentence each; files left out come last."""
    text = left_out_text(left_out)
    return [*notes, *([text] if text else [])]


_WHERE_IMAGES_ARE = {
    "streamed": ", images read ahead by a thread",
    "decoded": ", images decoded as they are used",
}


def facts(details: RunDetails, folder: Path) -> list[tuple[str, str]]:
    """A run beyond its figures, as (name, text); the texts are not yet safe to print."""
    record = details.record
    rows = [("error", record.error)] if record.error else []
    if details.started:
        started, resolved = details.started, details.started.resolved
        rows += [
            ("images", f"{started.num_train:,} train, {started.num_val:,} val, {started.num_test:,} test"),
            ("network", f"{counted(started.num_parameters, 'parameter')}, " + ", ".join(started.changes)),
            (
                "device",
                f"{resolved.device} ({resolved.device_name}), {_arithmetic(resolved)}"
                + _WHERE_IMAGES_ARE.get(resolved.images, ""),
            ),
            *([("where", resolved.workers)] if resolved.workers else []),
            *_pixel_range(started),
        ]
        kinds = started.left_out or {"no usable image": started.num_unusable}
        rows += [("note", line) for line in data_lines(started.notes, kinds)]
    if details.started and details.started.model_sha256:
        rows.append(("file", f"{record.model}, SHA-256 {details.started.model_sha256}"))
    rows.append(("settings", describe_settings(record.spec)))
    if unknown := unknown_settings(record.spec):
        rows.append(("unknown", f"{unknown_text(unknown)}: settings unknown to this version of reslab"))
    speed = f", {record.train_images_per_s:,.0f} images/s" if record.train_images_per_s else ""
    rows.append(("time", f"{duration(record.elapsed_s)}{speed}"))
    rows += _memory_rows(details.memory)
    rows += [("recovered", f"step {item.step:,}: {item.action}") for item in details.memory.recoveries[-3:]]
    if details.resumes:
        steps = ", ".join(f"{item.step:,}" for item in details.resumes)
        rows.append(("resumed", f"from step {steps}"))
    if details.caveat:
        rows.append(("note", details.caveat))
    if details.weights:
        rows.append(("weights", str(folder / details.weights.file)))
    return rows


def _pixel_range(started: RunStarted) -> list[tuple[str, str]]:
    """How images of more than 8 bits became 8; empty if there were none, or the run did not record it."""
    integers, floats = started.pixel_range
    ranges = [
        f"{kind} from 0 to {high:,.10g}"
        for kind, high in (("integers", integers), ("floats", floats))
        if high is not None
    ]
    return [("pixels", f"{' and '.join(ranges)} read as 0 to 255")] if ranges else []


def _memory_rows(memory: MemoryRecord) -> list[tuple[str, str]]:
    """Forecast and measurement of torch's allocator, then of the driver's context; process growth on its own."""
    rows = []
    if memory.forecast is not None:
        tensors = memory.forecast.peak_bytes - memory.forecast.context_bytes
        rows.append(("tensors", _forecast_and_measured(tensors, memory.peak_bytes)))
        if memory.forecast.context_bytes or memory.context_bytes is not None:
            rows.append(("driver", _forecast_and_measured(memory.forecast.context_bytes, memory.context_bytes)))
    if memory.grown_bytes is not None:
        grown = memory_size(memory.grown_bytes)
        rows.append(("process", f"grew by {grown}, libraries and threads included; a CPU's tensors are not measured"))
    return rows


def _forecast_and_measured(forecast: int, measured: int | None) -> str:
    words = f"forecast {memory_size(forecast)}"
    return words if measured is None else f"{words}, measured {memory_size(measured)}"


def _arithmetic(resolved: Resolved) -> str:
    """Type, layout and threads, and their measured gain if any."""
    dtype, threads = resolved.dtype, resolved.num_threads
    tuned = SettingsTuned(0, "", dtype, resolved.memory_format, threads, resolved.gain)
    return (dtype if resolved.gain == 1 else choice_text(tuned)) + fewer_threads(threads, resolved.threads_reason)


def fewer_threads(num_threads: int, reason: str) -> str:
    """A clause for fewer threads than cores, and why; empty otherwise."""
    return f", {num_threads} thread{'' if num_threads == 1 else 's'} because {reason}" if reason else ""


def choice_text(tuned: SettingsTuned) -> str:
    """The fastest measured settings on a processor, in words."""
    threads = counted(tuned.num_threads, "thread")
    if tuned.gain == 1:
        return f"plain {tuned.dtype} on {threads} is fastest"
    layout = ", channels last" if tuned.memory_format == "channels_last" else ""
    return f"{tuned.dtype}{layout}, {threads}: {tuned.gain:.2f} times as fast as plain float32"


def checked_text(event: TuningChecked) -> str | None:
    """Why the next run measures again; None if it does not."""
    if event.holds or event.first_images_per_s is None:
        return None
    return (
        f"{event.images_per_s:,.0f} images/s, but the first run with these settings reached "
        f"{event.first_images_per_s:,.0f}: the next run measures them again"
    )


def busy_text(tuned: SettingsTuned) -> str:
    """The load from other processes, as a clause to append; empty if it was negligible."""
    if tuned.busy_cores is None or tuned.busy_cores < 0.1:
        return ""
    return f", while other processes kept {tuned.busy_cores:.1f} of the cores busy"


def continued_text(event: RunContinued) -> str:
    """How a run resumes, and what may round differently than before."""
    at = f"resumed from step {event.step:,}" if event.step else "restarted, no usable checkpoint"
    return f"{at}; changed since: {', '.join(event.differs)}" if event.differs else at


def setting_rows(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every setting with the form's label and text."""
    described = settings_of(RunSpec)
    return [(item.label, item.show(spec.get(name, item.default))) for name, item in described.items()]


def describe_settings(spec: Mapping[str, Any]) -> str:
    """The settings that differ from the defaults: "seed 1, epochs 20, otherwise defaults"."""
    described = settings_of(RunSpec)
    changed = [
        f"{item.label} {item.show(spec[name])}"
        for name, item in described.items()
        if name in spec and name not in ("dataset", "model") and spec[name] != item.default
    ]
    return ", ".join([*changed, "otherwise defaults"]) if changed else "all defaults"


def unknown_text(settings: Mapping[str, Any]) -> str:
    """Stored settings unknown to this version: "mixup 0.2, width 3"."""
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in settings.items())


def duration(seconds: float | None) -> str:
    """A duration for display: 8.3 s, 4:05, 2:10:09."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _figure(metrics: Metrics | None, name: str) -> str:
    return percent(getattr(metrics, name) if metrics else None)


def _loss(metrics: Metrics | None) -> str:
    """A loss that was not finite is stored as none."""
    known = metrics is not None and metrics.loss is not None and math.isfinite(metrics.loss)
    return f"{metrics.loss:.4f}" if metrics and known else "–"
