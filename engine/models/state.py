"""Load tensors from a file into a network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

COUNTS = "num_batches_tracked"  # batch-norm's; files from before torch 0.4.1 lack them


def load_state(network: nn.Module, state: Mapping[str, Tensor], strict: bool = True) -> None:
    """`network.load_state_dict` for tensors without the versions that torch keeps beside a state dict, without which
    MNASNet refuses them. Counts of batches that are not in `state` stay as they are.

    Raises:
        RuntimeError: names or shapes do not fit; unless `strict`, names may be missing or unknown.
    """
    current = network.state_dict()
    counts = {name: value for name, value in current.items() if name.endswith(COUNTS)}
    versioned = OrderedDict({**counts, **state})
    versioned._metadata = current._metadata  # type: ignore[attr-defined]
    network.load_state_dict(versioned, strict)
