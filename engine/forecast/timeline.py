"""The storages of one step in the order of their births and deaths, and the peak of their sum: the forecast."""

from __future__ import annotations

from dataclasses import dataclass

from engine.forecast.workspace import Convolution, inner_peak

BYTES_FIELDS = (
    "peak_bytes", "parameters_bytes", "gradients_bytes", "optimizer_bytes", "activations_bytes", "dataset_bytes",
    "workspace_bytes", "context_bytes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes at the moment of the peak, by what holds them; `peak_bytes` is their sum.

    `parameters_bytes` counts the weights and the batch-norm statistics with their copy. `image_bytes` is what each
    image of a batch adds. `context_bytes` lies outside torch's allocator. `during` says what the peak is reached in.
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
    """The numbers of the storages that hold what."""

    parameters: frozenset[int]
    gradients: frozenset[int]
    optimizer: frozenset[int]


@dataclass(frozen=True, slots=True)
class _Change:
    """A storage was born (`num_bytes` above 0) or died, at this moment of the run."""

    moment: str
    number: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _Convolved:
    """A convolution was made; its results are born right after."""

    moment: str
    call: Convolution
    num_images: int


class Timeline:
    """Grows by births, deaths and convolutions; `moment` says what the run is at."""

    def __init__(self) -> None:
        self.moment = "building"
        self._marks: list[_Change | _Convolved] = []
        self._num_allocated = 0

    def allocate(self, num_bytes: int) -> int:
        """A storage is born; returns its number."""
        self._num_allocated += 1
        self._marks.append(_Change(self.moment, self._num_allocated, num_bytes))
        return self._num_allocated

    def free(self, number: int, num_bytes: int) -> None:
        self._marks.append(_Change(self.moment, number, -num_bytes))

    def convolve(self, call: Convolution, num_images: int) -> None:
        self._marks.append(_Convolved(self.moment, call, num_images))

    def forecast(self, held: Held, batch_size: int, inside: bool) -> Forecast:
        """What lived at the peak, by what it is; `inside` counts what convolutions hold while they are made."""
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
        """The place of the mark at which most lives once the network is built, and what is inside a convolution there.

        A convolution is candidates what it takes only where it could be the peak: asking takes time.
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
        """Bytes of each storage that lives right after the mark at `place`, by number."""
        live: dict[int, int] = {}
        for mark in self._marks[: place + 1]:
            if isinstance(mark, _Change):
                live[mark.number] = live.get(mark.number, 0) + mark.num_bytes
        return live
