"""Use cases of looking at a dataset before the first step: the audit, kept ones, decisions, exclude lists, pictures.

Loads no torch until images are loaded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.analysis.seeds import Compared, images_of
from engine.analysis.without import compare_without
from engine.data.audit.decisions import read_decisions, write_decision
from engine.data.audit.findings import findings_of, suspects
from engine.data.audit.glance import Glance, glance
from engine.data.audit.kept import KeptAudit, audit_key, find_kept, keep, kept_for
from engine.data.audit.values import Audit, ByNetwork, ImageRef
from engine.data.cache import entries
from engine.data.exclusion import read_exclusion, write_list
from engine.errors import CheckpointError, DatasetError
from engine.paths import Folders
from engine.progress import LoadingStopped, Progress
from engine.records import Predictions, RunDetails
from engine.spec import RunSpec
from engine.text import safe_text

if TYPE_CHECKING:
    from torch import Tensor

    from engine.control import Control
    from engine.data.audit.opened import OpenDataset
    from engine.data.audit.scan import Scanned
    from engine.memory.ledger import Ledger

_AT_ONCE = 256


class DatasetLook:
    """What a lab knows about datasets, in its cache and home folders."""

    def __init__(self, folders: Folders) -> None:
        self.folders = folders

    def kept(self, spec: RunSpec) -> KeptAudit | None:
        """The audit of the images of `spec`, if it is kept and their files have not changed. Loads no torch."""
        return find_kept(self.folders.cache, audit_key(spec, self.folders))

    def audit(
        self, spec: RunSpec, control: Control, details: RunDetails | None = None, ledger: Ledger | None = None
    ) -> Generator[Progress, None, Audit]:
        """Look at every image of `spec`'s dataset, with the network of a run if `details` are given; instant if it is
        kept.

        Raises:
            DatasetError: the dataset is not available, or its images are not of the run's size.
            CheckpointError: the run has no weights.
            LoadingStopped: `control` requested a stop.
        """
        name = audit_key(spec, self.folders, _network_hash(details))
        if (found := find_kept(self.folders.cache, name)) is not None:
            return found.audit
        from engine.data.audit.scan import scan

        scanned = yield from scan(spec, self.folders, control)
        audit = scanned.audit
        if details is not None:
            keep(self.folders.cache, audit_key(spec, self.folders), KeptAudit(audit, scanned.samples))
            by_network = yield from self._judged(scanned, details, control, ledger)
            audit = replace(audit, by_network=by_network)
        keep(self.folders.cache, name, KeptAudit(audit, scanned.samples))
        return audit

    def kept_bytes(self, spec: RunSpec) -> int:
        """How much the kept audit takes in the cache; 0 if none is kept."""
        name = audit_key(spec, self.folders)
        return next((entry.num_bytes for entry in entries(self.folders.cache) if entry.name == name), 0)

    def open(self, spec: RunSpec, control: Control) -> Generator[Progress, None, OpenDataset]:
        """The images of `spec`'s dataset, with its audit, for looking. Raises as `audit`."""
        name = audit_key(spec, self.folders)
        kept = find_kept(self.folders.cache, name)
        from engine.data.audit.opened import OpenDataset
        from engine.data.audit.scan import refs_of, scan
        from engine.data.loading import load_dataset

        if kept is not None:
            data = yield from load_dataset(spec, self.folders, control)
            refs = yield from refs_of(spec, self.folders, data, control)
            return OpenDataset.of(kept.audit, data, refs)
        scanned = yield from scan(spec, self.folders, control)
        keep(self.folders.cache, name, KeptAudit(scanned.audit, scanned.samples))
        return OpenDataset.of(scanned.audit, scanned.data, scanned.refs)

    def glance(self, spec: RunSpec, may_load: bool) -> Glance | None:
        """What is known at once about the images of `spec`; None if only loading can tell. Raises DatasetError."""
        return glance(spec, self.folders, may_load)

    def num_findings(self, found: Glance, spec: RunSpec) -> int | None:
        """How many kinds of findings there are; None if nobody has looked at all images yet."""
        if found.kept is None:
            return None
        return len(findings_of(found.kept.audit, self.decisions(), spec.batch_size))

    def exclude(self, spec: RunSpec, images: Iterable[ImageRef]) -> str:
        """Write an exclude list of these images and those that `spec` leaves out already; returns its path.

        Raises:
            DatasetError: the present list cannot be read, or the home folder cannot be written.
        """
        before = read_exclusion(spec)
        hashes = dict.fromkeys(sorted(before.hashes), "") if before else {}
        hashes |= {image.sha256: safe_text(f"{image.part} {image.name}") for image in images}
        name = hashlib.sha256("".join(sorted(hashes)).encode()).hexdigest()[:12]
        path = self.folders.home / "excluded" / f"{name}.txt"
        write_list(path, hashes, safe_text(f"images left out of {spec.dataset}"))
        return str(path)

    def decisions(self) -> dict[tuple[str, str], str]:
        """The decisions on near-duplicates, by the pair's hashes."""
        return read_decisions(self.folders.home)

    def decide(self, pair: tuple[str, str], decision: str) -> None:
        """Store "same", "different" or "undecided" for the pair of these hashes."""
        write_decision(self.folders.home, pair, decision)

    def _judged(
        self, scanned: Scanned, details: RunDetails, control: Control, ledger: Ledger | None
    ) -> Generator[Progress, None, ByNetwork]:
        import torch

        from engine.catalog.models import find_model
        from engine.data.audit.by_network import judge
        from engine.data.audit.scan import parts_of
        from engine.predicting import Network

        network = Network.opened(details, self.folders, ledger)
        shape, run = scanned.data.shape, details.record.run
        expected = (network.reading.channels, network.reading.height, network.reading.width)
        if (shape.channels, shape.height, shape.width) != expected:
            channels, height, width = expected
            raise DatasetError(
                f"run {run} was trained on images of {height}×{width}×{channels}, these are {shape}; "
                f"set --image-size {height}, or choose a run on such images"
            )
        seen: list[torch.Tensor] = []
        last = network.model.get_submodule(find_model(details.record.model).last)
        handle = last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].detach()))
        found, done = [], 0
        splits = parts_of(scanned.data).values()
        try:
            for split in splits:
                for chunk in split.chunks(_AT_ONCE):
                    if control.stop_requested:
                        raise LoadingStopped
                    network.forward(chunk.to(network.device))
                    found.append(_pooled(seen.pop()))
                    seen.clear()
                    done += len(chunk)
                    yield Progress("features", done, sum(map(len, splits)), "images")
        finally:
            handle.remove()
        features = torch.cat(found)
        return (yield from judge(features, scanned.refs, scanned.audit.class_names, run, control))


def compare_rest(
    found: Compared, compared: Sequence[tuple[RunDetails, Predictions]], pairs: Sequence[tuple[int, int]] | None,
    folders: Folders,
) -> Compared:  # fmt: skip
    """A comparison with its verdicts repeated without the test images that lie in the training set of any of the runs,
    as far as audits are kept.
    """
    if found.comparison.no_verdict is not None:
        return found
    decisions = read_decisions(folders.home)
    audits = {images: kept_for(folders.cache, *images) for images in {images_of(details)[:2] for details in found.runs}}
    positions = {index for audit in audits.values() if audit is not None for index in suspects(audit, decisions)}
    unknown = [details.record.run for details in found.runs if audits[images_of(details)[:2]] is None]
    return replace(found, without=compare_without(compared, pairs, positions, unknown))


def _pooled(features: Tensor) -> Tensor:
    """(N, D): a last layer that is a convolution sees (N, D, H, W)."""
    return features.float().flatten(2).mean(dim=2) if features.ndim > 2 else features.float()


def _network_hash(details: RunDetails | None) -> str:
    if details is None:
        return ""
    if details.weights is None:
        raise CheckpointError(f"run {details.record.run} has no weights: it ended before any were saved")
    return details.weights.sha256
