"""The storages of one step, in the order of allocation and release, and the peak of their sum: the forecast."""

from __future__ import annotations

from dataclasses import dataclass

from engine.forecast.workspace import Convolution, inner_peak

BYTES_FIELDS = (
    "peak_bytes", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "dataset_bytes",
    "workspace_bytes", "context_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes at the peak, by what holds them; `peak_bytes` is their sum.

    `parameters_bytes` counts weights, batch-norm statistics and their copy. `image_bytes` is what each image of a batch
    adds. `context_bytes` lies outside torch's allocator. `during` names the phase of the peak.
    """

    parameters_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    dataset_bytes: int
    workspace_bytes: int
    context_bytes: int
    image_bytes: int
    batch_size: int
    during: str

    @property
    def allocator_bytes(self) -> int:
        """The peak of torch's allocator."""
        return self.peak_bytes - self.context_bytes

    @property
    def peak_bytes(self) -> int:
        return (
            self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes + self.activations_bytes
            + self.dataset_bytes + self.workspace_bytes + self.context_bytes
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Held:
    """The storages that hold parameters, gradients and optimizer state, by number."""

    parameters: frozenset[int]
    gradients: frozenset[int]
    optimizer: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Change:
    """A storage was allocated (`num_bytes` above 0) or freed, in this phase of the run."""

    moment: str
    number: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Convolved:
    """A convolution ran; its results are allocated right after."""

    moment: str
    call: Convolution
    num_images: int


class Timeline:
    """Records allocations, releases and convolutions; `moment` is the current phase of the run."""

    def __init__(self) -> None:
        self.moment = "building"
        self._marks: list[_Change | _Convolved] = []
        self._num_allocated = 0

    def allocate(self, num_bytes: int) -> int:
        """Record a new storage; returns its number."""
        self._num_allocated += 1
        self._marks.append(_Change(self.moment, self._num_allocated, num_bytes))
        return self._num_allocated

    def free(self, number: int, num_bytes: int) -> None:
        self._marks.append(_Change(self.moment, number, -num_bytes))

    def convolve(self, call: Convolution, num_images: int) -> None:
        self._marks.append(_Convolved(self.moment, call, num_images))

    def forecast(self, held: Held, batch_size: int, inside: bool) -> Forecast:
        """What was allocated at the peak, by kind; `inside` counts the workspaces of convolutions."""
        at, workspace = self._highest(inside)
        live = self._live_at(at)
        parameters, gradients, optimizer = (
            sum(live.get(number, 0) for number in numbers)
            for numbers in (held.parameters, held.gradients, held.optimizer)
        )
        activations = sum(live.values()) - parameters - gradients - optimizer
        moment = self._marks[at].moment
        return Forecast(
            parameters_bytes=parameters,
            gradients_bytes=gradients,
            optimizer_bytes=optimizer,
            activations_bytes=activations,
            dataset_bytes=0,
            workspace_bytes=workspace,
            context_bytes=0,
            image_bytes=activations // batch_size if moment != "update" else 0,
            batch_size=batch_size,
            during=moment,
        )

    def _highest(self, inside: bool) -> tuple[int, int]:
        """The mark with the highest total once the network is built, and a convolution's workspace there.

        A convolution is measured only if it could be the peak: measuring takes time.
        """
        total, at, most, workspace = 0, 0, -1, 0
        candidates: list[tuple[int, int, int, _Convolved]] = []
        for place, mark in enumerate(self._marks):
            if isinstance(mark, _Change):
                total += mark.num_bytes
                if total > most and mark.moment != "building":
                    at, most = place, total
            elif inside:
                candidates.append((total + mark.call.bound(mark.num_images), total, place, mark))
        for bound, before, place, convolved in sorted(candidates, key=lambda item: -item[0]):
            if bound <= most:
                break
            taken = inner_peak(convolved.call, convolved.num_images)
            if before + taken > most:
                at, most, workspace = place, before + taken, taken
        return at, workspace

    def _live_at(self, place: int) -> dict[int, int]:
        """Bytes of each storage that is allocated right after the mark at `place`, by number."""
        live: dict[int, int] = {}
        for mark in self._marks[: place + 1]:
            if isinstance(mark, _Change):
                live[mark.number] = live.get(mark.number, 0) + mark.num_bytes
        return live
