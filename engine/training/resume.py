"""Resume an interrupted run: the same arithmetic and threads, its checkpoint's state, and what differs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.cores import usable_cores
from engine.data.images import NEWEST_RULES, ImageData
from engine.device import Placement
from engine.errors import CheckpointError
from engine.events import Resolved, RunStarted
from engine.models.form import apply_form
from engine.models.state import load_state
from engine.models.whole import changed_since, fingerprint
from engine.spec import unknown_settings
from engine.step.learner import Learner
from engine.training.checkpoint import Checkpoint
from engine.training.position import START, Position


@dataclass(frozen=True, slots=True)
class Resume:
    """Where to resume. `started` is the run's recorded RunStarted; None if it never got that far.

    Without a `checkpoint` the run restarts with the recorded settings. `file` is the checkpoint's name in the run's
    folder and `sha256` its hash. `is_fresh`: the run has never been started.
    """

    started: RunStarted | None
    checkpoint: Checkpoint | None = None
    file: str | None = None
    sha256: str | None = None
    is_fresh: bool = False

    @property
    def position(self) -> Position:
        """Raises CheckpointError if the checkpoint does not say."""
        return START if self.checkpoint is None else Position.from_dict(self.checkpoint.header)

    @property
    def data_rules(self) -> int:
        """The rules by which the run read its images; the newest if it never got that far."""
        return NEWEST_RULES if self.started is None else self.started.data_rules

    @property
    def recorded(self) -> Resolved | None:
        """How the spec was resolved before; None if unknown."""
        return self.started.resolved if self.started else None

    def placed(self, placement: Placement) -> Placement:
        """The recorded dtype, layout and number of threads, if this machine has such a device."""
        recorded = self.recorded
        if recorded is None or torch.device(recorded.device).type != placement.device.type:
            return placement
        if recorded.num_threads <= usable_cores():
            torch.set_num_threads(recorded.num_threads)
        return replace(
            placement,
            dtype=getattr(torch, recorded.dtype),
            memory_format=getattr(torch, recorded.memory_format),
            gain=recorded.gain,
        )

    def check_images(self, data: ImageData) -> None:
        """Raises CheckpointError if the images are not those of the run so far."""
        if self.started is None:
            return
        seen = self.started
        train_sha256 = seen.train_sha256 or data.train_sha256  # not recorded by early versions
        before = (seen.test_sha256, train_sha256, seen.num_train, seen.num_val, seen.mean, seen.std)
        num_val = len(data.val) if data.val else 0
        if before != (data.test_sha256, data.train_sha256, len(data.train), num_val, data.mean, data.std):
            raise CheckpointError(
                "the images are not those that the run began with (number, order or SHA-256 differ); "
                "train a new run on them"
            )

    def check_network(self, model: str) -> None:
        """Raises CheckpointError if the user's own file is not the one of the run so far."""
        before = self.started.model_sha256 if self.started is not None else ""
        if before and (now := fingerprint(model)) != before:
            raise CheckpointError(changed_since(model, before, now, "restore it, or train a new run"))

    def restore(self, learner: Learner) -> None:
        """Copy the checkpoint's weights, statistics and optimizer state into the existing tensors.

        Raises:
            CheckpointError: they belong to another network or optimizer.
        """
        if self.checkpoint is None:
            return
        apply_form(learner.model, self.checkpoint.header.get("form", {"shortcut_padding": "end"}))
        state = _state_by_index(learner.optimizer)
        if state.keys() != self.checkpoint.optimizer.keys():
            raise CheckpointError("the checkpoint's optimizer has other parameters than this run's")
        try:
            load_state(learner.model, self.checkpoint.model)
            for index, values in state.items():
                for name, value in values.items():
                    value.copy_(self.checkpoint.optimizer[index][name])
        except (KeyError, RuntimeError) as error:
            first_line = str(error).splitlines()[0]
            raise CheckpointError(f"the checkpoint belongs to another network or optimizer ({first_line})") from None

    def differences(self, now: Resolved) -> tuple[str, ...]:
        """What changed, in words: the rest of the run may then round differently."""
        if self.started is None:
            return ()
        recorded = self.started.resolved
        unknown = unknown_settings(self.started.spec)
        found = [f"the setting {name} ignored (it was {value})" for name, value in unknown.items()]
        for field, what in (
            ("device_name", "device"), ("dtype", "dtype"), ("memory_format", "layout"), ("num_threads", "threads"),
            ("workers", "workers"),
        ):  # fmt: skip
            before, after = getattr(recorded, field), getattr(now, field)
            if before != after:
                found.append(f"{what} {after or 'one'} instead of {before or 'one'}")
        for package, before in recorded.versions.items():
            after = now.versions.get(package)
            if before != after:
                found.append(f"{package} {after} instead of {before}")
        return tuple(found)


FRESH = Resume(None, is_fresh=True)
"""The first start of a run."""


def _state_by_index(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state's tensors, numbered as in `state_dict`: by parameter within each group."""
    parameters = [values for group in optimizer.param_groups for values in group["params"]]
    found = {}
    for index, values in enumerate(parameters):
        tensors = {name: value for name, value in optimizer.state[values].items() if isinstance(value, Tensor)}
        if tensors:
            found[index] = tensors
    return found
