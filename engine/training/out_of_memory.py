"""Recovery from a failed allocation: the run continues, and no image is lost or counted twice.

    the attempt fails                       leave the except block: its traceback holds every tensor of the attempt
    restore statistics and gradients        (weights and optimizer were not touched: an update allocates nothing)
    first failure in a step                 free what is idle, empty the allocator's cache, retry the same step
    again, with --on-oom checkpoint         keep only the blocks' inputs and recompute activations: the same bits
    again                                   micro-batches of half the size, then half of that, down to two images
    two images do not fit                   MemoryShortageError: how much was needed, how much there is, who holds it

After a while without a failure the micro-batches double again; if that fails, the next attempt waits twice as long.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields

from torch import Tensor

from engine.data.feeding import Batch
from engine.errors import MemoryShortageError
from engine.events import MemoryRecovered
from engine.memory.freeing import clear_workspaces, empty_caches
from engine.memory.headroom import free_bytes
from engine.memory.ledger import Ledger
from engine.memory.out_of_memory import is_out_of_memory, requested_bytes
from engine.step.forward import EVALUATED_PER_PART, Outputs
from engine.step.learner import MIN_MICRO_BATCH, Learner
from engine.step.recompute import recompute_activations
from engine.text import counted, memory_size
from engine.training.cuda_graph import GraphedStep
from engine.training.position import MemoryState

CALM_STEPS = 200  # without a failure, before larger micro-batches are tried


@dataclass(slots=True)
class Recovery:
    """Gets the steps of one run through failed allocations; its actions wait in `events` to be yielded.

    `micro_batch` None: batches are whole. `recomputing`: activations are computed twice. `graphed` is dropped for good
    at the first failure.
    """

    run: int
    learner: Learner
    ledger: Ledger
    graphed: GraphedStep | None = None
    used_graph: bool = False
    events: list[MemoryRecovered] = field(default_factory=list)
    micro_batch: int | None = None
    recomputing: bool = False
    before_probe: int | None = None
    most: int | None = None
    evaluated_at_once: int | None = None
    calm_steps: int = 0
    calm_needed: int = field(default_factory=lambda: CALM_STEPS)

    def compute_gradients(self, batch: Batch, epoch: int, number: int, step: int) -> tuple[Tensor, Tensor]:
        """`Learner.compute_gradients`, retried until it fits. `step` counts from 1 over the run.

        Raises:
            MemoryShortageError: not even two images fit.
        """
        self._probe(step)
        failures = 0
        while True:
            try:
                computed = self._attempt(batch, epoch, number)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                requested = requested_bytes(error)
            else:
                self.calm_steps += 1
                self.before_probe = None
                return computed
            failures += 1
            self.learner.undo()
            freed = self._free()
            self._adapt(failures, len(batch[1]), step, freed, requested)

    def _attempt(self, batch: Batch, epoch: int, number: int) -> tuple[Tensor, Tensor]:
        computed = None
        if self.graphed is not None and self.micro_batch is None:
            computed = self.graphed.compute_gradients(batch, epoch, number)
        self.used_graph = computed is not None
        return computed or self.learner.compute_gradients(batch, epoch, number, self.micro_batch)

    @property
    def update(self) -> Callable[[], object]:
        """The optimizer step that belongs to the latest gradients."""
        return self.graphed.update if self.graphed and self.used_graph else self.learner.optimizer.step

    def _free(self) -> int:
        if self.graphed is not None:
            self.graphed.drop()
            self.graphed = None
        clear_workspaces()
        return free_idle(self.ledger)

    def evaluate(
        self, work: Callable[[Tensor, Tensor], Outputs], images: Tensor, labels: Tensor, step: int
    ) -> list[Outputs]:
        """`work` on a batch, in as many parts as memory requires; no image twice.

        Raises:
            MemoryShortageError: not even one image fits.
        """
        done: list[Outputs] = []
        start = failures = 0
        while start < len(labels):
            stop = min(start + (self.evaluated_at_once or len(labels)), len(labels))
            try:
                done.append(work(images[start:stop], labels[start:stop]))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                requested = requested_bytes(error)
            else:
                start = stop
                continue
            failures += 1
            freed = self._free()
            if failures == 1:
                self._emit(step, "freed what was idle and tried again", freed)
                continue
            if stop - start == 1:
                raise MemoryShortageError(self._failure_text(1, requested))
            self.evaluated_at_once = -(-(stop - start) // 2)
            self._emit(step, f"evaluating {counted(self.evaluated_at_once, 'image')} at once", freed)
        return done

    def pending_events(self) -> Iterator[MemoryRecovered]:
        """The actions since the last call."""
        while self.events:
            yield self.events.pop(0)

    def start_small(self, micro_batch: int | None, recompute: bool) -> None:
        """Begin with what the forecast says will fit, before any failure."""
        if recompute:
            self._recompute(0, 0)
        if micro_batch is not None:
            self.evaluated_at_once = EVALUATED_PER_PART * micro_batch
            if self.learner.placement.device.type != "cuda":
                self.most = micro_batch  # allocations on a host do not fail, so never exceed the forecast
            self._shrink(micro_batch, 0, 0)

    @property
    def state(self) -> MemoryState:
        """The state that a resumed run restores."""
        return MemoryState(*(getattr(self, item.name) for item in fields(MemoryState)))

    def restore(self, state: MemoryState) -> None:
        """Restore the state of the interrupted run, without an event."""
        for item in fields(MemoryState):
            setattr(self, item.name, getattr(state, item.name))
        if state.calm_needed is None:
            self.calm_needed = CALM_STEPS
        if state.recomputing:
            recompute_activations(self.learner.model, self.learner.uses_rng)

    def _adapt(self, failures: int, batch_size: int, step: int, freed: int, requested: int | None) -> None:
        self.calm_steps = 0
        if failures == 1:
            self._emit(step, "freed what was idle and tried again", freed)
            return
        if self.before_probe is not None:
            self.calm_needed *= 2
            smaller, self.before_probe = self.before_probe, None
            self._shrink(smaller, step, freed)
            return
        if self.learner.spec.on_oom == "checkpoint" and not self.recomputing:
            self._recompute(step, freed)
            return
        now = min(self.micro_batch or batch_size, batch_size)
        if self.learner.spec.on_oom == "fail" or now <= MIN_MICRO_BATCH:
            raise MemoryShortageError(self._failure_text(now, requested))
        self._shrink(max(-(-now // 2), MIN_MICRO_BATCH), step, freed)

    def _recompute(self, step: int, freed: int) -> None:
        recompute_activations(self.learner.model, self.learner.uses_rng)
        self.recomputing = True
        self._emit(step, "recomputing activations instead of keeping them", freed)

    def _shrink(self, micro_batch: int, step: int, freed: int) -> None:
        self.micro_batch = micro_batch
        self._emit(step, f"training in micro-batches of {micro_batch}", freed)

    def _probe(self, step: int) -> None:
        if self.micro_batch is None or self.calm_steps < self.calm_needed:
            return
        self.calm_steps = 0
        larger = self.micro_batch * 2
        if self.most is not None and larger > self.most:
            return
        self.before_probe = self.micro_batch
        self.micro_batch = None if larger >= self.learner.spec.batch_size else larger
        what = "whole batches" if self.micro_batch is None else f"micro-batches of {larger}"
        self._emit(step, f"trying {what} again", 0)

    def _emit(self, step: int, action: str, freed: int) -> None:
        self.events.append(MemoryRecovered(self.run, step, action, self.micro_batch, self.recomputing, freed))

    def _failure_text(self, num_images: int, requested: int | None) -> str:
        device = self.learner.placement.device
        size = f" of {memory_size(requested)}" if requested is not None else ""
        held = [f"{item.label} #{item.run} {memory_size(item.num_bytes)}" for item in self.ledger.holdings()]
        return (
            f"memory ran out on {device}: a step with {counted(num_images, 'image')} does not fit, an allocation"
            f"{size} failed; {memory_size(free_bytes(device))} are free, held are "
            f"{', '.join(held) or 'none by reslab'}; choose a smaller image size or network, or free memory that "
            "others hold"
        )


def free_idle(ledger: Ledger) -> int:
    """Drop everything that no live run needs and empty the caches; returns the bytes dropped."""
    dropped = ledger.drop_idle()
    gc.collect()
    empty_caches()
    return sum(holding.num_bytes for holding in dropped)
