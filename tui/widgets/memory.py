"""The memory strip: every GPU, or host memory without one, and what is held in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import var
from textual.widgets import Static

from engine.memory.allocator import AllocatorReading
from engine.memory.gauges import GpuReading, HostReading, MemoryReading
from engine.memory.ledger import Holding
from engine.memory.node_gauges import NodeReading
from engine.text import memory_size
from tui.text import GIB, gib, plain_content

_LEVELS = "▁▂▃▄▅▆▇█"
_HISTORY = 200  # readings, one per second
_MAX_OTHERS = 2  # processes shown


class MemoryStrip(Static):
    """Bars of memory used by this process, used by others, and free. Redrawn only when the text changes."""

    DEFAULT_CSS = "MemoryStrip { height: auto; }"
    text: var[tuple[Content, int]] = var((Content(""), 0), init=False)
    """The content and the width it is fitted to. `Content` compares by text, ignoring colours."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(plain_content("reading the gauges …"), id=id)
        self._history: dict[tuple[str, int], deque[float]] = {}  # used shares by (node, GPU), -1 for the host
        self._last: MemoryReading | None = None
        self._drawn: tuple[MemoryReading, Sequence[Holding], Sequence[NodeReading]] | None = None

    def on_resize(self) -> None:
        """A scroll bar has appeared or gone: fit the text to the new width."""
        if self._drawn is not None:
            self.show(*self._drawn)

    def add_reading(self, reading: MemoryReading, nodes: Sequence[NodeReading] = ()) -> None:
        """Add a reading to the history, once."""
        if reading is self._last:
            return
        self._last = reading
        machines: list[tuple[str, MemoryReading | NodeReading]] = [("", reading)]
        for name, machine in [*machines, *((node.name, node) for node in nodes)]:
            for gpu in machine.gpus:
                self._append((name, gpu.index), gpu.used_bytes, gpu.total_bytes)
            if not machine.gpus:
                self._append((name, -1), machine.host.used_bytes, machine.host.total_bytes)

    def show(self, reading: MemoryReading, holdings: Sequence[Holding], nodes: Sequence[NodeReading] = ()) -> None:
        self._drawn = reading, holdings, nodes
        self.add_reading(reading, nodes)
        width = self.content_size.width or 28
        parts: list[Content] = []
        for gpu in reading.gpus:
            parts += _gpu_lines(gpu, width, self._sparkline(("", gpu.index), width))
        if not reading.gpus:
            parts += _host_lines(reading.host, width, self._sparkline(("", -1), width))
            if reading.mps is not None:
                parts += _allocator_lines(reading.mps, width, "Apple's GPU")
            parts.append(plain_content(reading.no_gpu or "no NVIDIA GPU", "dim"))
        parts += [_holding_line(holding, width) for holding in holdings]
        for node in nodes:
            parts.append(plain_content(f"node {node.name}"[:width], "bold $accent"))
            for gpu in node.gpus:
                parts += _gpu_lines(gpu, width, self._sparkline((node.name, gpu.index), width), on_this_machine=False)
            if not node.gpus:
                parts += _host_lines(node.host, width, self._sparkline((node.name, -1), width), on_this_machine=False)
        self.text = (Content("\n").join(parts), width)

    def watch_text(self, before: tuple[Content, int], now: tuple[Content, int]) -> None:
        """Lay the screen out again only when the height changes."""
        text, width = now
        higher = before[0].plain.count("\n") != text.plain.count("\n")
        wraps = any(cell_len(line) > width for line in text.plain.split("\n"))
        self.update(text, layout=higher or wraps)

    def _append(self, index: tuple[str, int], used: int | None, total: int | None) -> None:
        if used is not None and total:
            self._history.setdefault(index, deque(maxlen=_HISTORY)).append(used / total)

    def _sparkline(self, index: tuple[str, int], width: int) -> Content | None:
        """Memory use over the last minutes, one reading per cell, newest at the right; scaled from empty to full."""
        past = list(self._history.get(index, ()))[-width:]
        if not past:
            return None
        cells = "".join(_LEVELS[min(int(share * len(_LEVELS)), len(_LEVELS) - 1)] for share in past)
        return Content.styled(cells, "$primary")


def _gpu_lines(gpu: GpuReading, width: int, history: Content | None, on_this_machine: bool = True) -> list[Content]:
    """One GPU. On another machine, none of its memory belongs to this process."""
    facts = [
        f"{gpu.temperature_c} °C" if gpu.temperature_c is not None else "",
        f"{gpu.power_w:.0f} W" if gpu.power_w is not None else "",
        f"{gpu.utilisation_percent} % busy" if gpu.utilisation_percent is not None else "",
    ]
    lines = [
        plain_content(f"GPU {gpu.index} {gpu.name}"[:width], "bold"),
        _bar(gpu.process_bytes if on_this_machine else 0, gpu.used_bytes, gpu.total_bytes, width),
        *([history] if history is not None else []),
        _shares(gpu.process_bytes, gpu.others_bytes, gpu.free_bytes, width)
        if on_this_machine
        else _in_use(gpu.used_bytes, gpu.free_bytes),
    ]
    if known := "  ".join(fact for fact in facts if fact):
        lines.append(plain_content(known, "dim"))
    if gpu.throttled:
        lines.append(plain_content(f"throttled: {gpu.throttled}", "$warning"))
    lines += [plain_content(f"  {gib(held)} GiB {name}"[:width], "dim") for name, held in gpu.others[:_MAX_OTHERS]]
    if gpu.allocator is not None:
        lines += _allocator_lines(gpu.allocator, width, "torch")
    return [*lines, *(plain_content(note, "dim") for note in gpu.notes)]


def _allocator_lines(allocator: AllocatorReading, width: int, name: str) -> list[Content]:
    """torch's own figures, and why they differ from the driver's."""
    given, reserved = gib(allocator.allocated_bytes), gib(allocator.reserved_bytes)
    text = f"{name} {given} of {reserved} reserved"
    if allocator.largest_free_bytes is not None:
        text += f", {gib(allocator.largest_free_bytes)} in one piece"
    why = "the driver counts torch's reserved memory and context"
    return [plain_content(text[:width], "dim"), plain_content(why, "dim")]


def _host_lines(host: HostReading, width: int, history: Content | None, on_this_machine: bool = True) -> list[Content]:
    return [
        plain_content("host memory", "bold"),
        _bar(host.process_bytes if on_this_machine else 0, host.used_bytes, host.total_bytes, width),
        *([history] if history is not None else []),
        _shares(host.process_bytes, host.others_bytes, host.available_bytes, width)
        if on_this_machine
        else _in_use(host.used_bytes, host.available_bytes),
        plain_content(f"CPU {host.load_percent:.0f} % busy", "dim"),
    ]


def _shares(own: int | None, others: int | None, free: int | None, width: int) -> Content:
    parts = (f"this {gib(own)}", f"others {gib(others)}", f"free {gib(free)}")
    wide = "  ".join(parts)
    return plain_content(wide if len(wide) <= width else " ".join(parts))


def _in_use(used: int | None, free: int | None) -> Content:
    return plain_content(f"in use {gib(used)}  free {gib(free)}")


def _bar(own: int | None, used: int | None, total: int | None, width: int) -> Content:
    """█ this process, ▒ others, ░ free: distinct by texture as well as by colour."""
    if not total or used is None:
        return plain_content("the driver does not report memory", "dim")
    label = f" {used / GIB:.1f} / {total / GIB:.1f} GiB"
    cells = max(width - len(label), 4)
    mine = round(cells * min(own or 0, used) / total)
    others = max(round(cells * used / total) - mine, 0)
    return Content.assemble(
        ("█" * mine, "$primary"), ("▒" * others, "$accent"), ("░" * (cells - mine - others), "dim"), label
    )


def _holding_line(holding: Holding, width: int) -> Content:
    end = f" {memory_size(holding.num_bytes)} {'live' if holding.live else 'idle'}"
    name = f"{holding.label} #{holding.run}" if holding.kind == "model" else holding.label
    return plain_content(f"{name[: width - len(end)].ljust(width - len(end))}{end}", "" if holding.live else "dim")
