"""What an audit found, as plain values that are stored and shown. Loads no torch and no numpy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engine.data.manifest import FileRecord, left_out_by_kind

PARTS = ("train", "val", "test")
PART_WORDS = {"train": "training", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image: its part, its position there, its class, its file (empty without files).

    `sha256` is the hash of its file, or of its pixels as the dataset stores them.
    """

    part: str
    index: int
    class_name: str
    file: str
    sha256: str

    @property
    def name(self) -> str:
        """Its file, else "image 12" of its part."""
        return self.file or f"image {self.index}"

    @property
    def label(self) -> str:
        """As in a list: "Cat/3.jpg (test, cat)"."""
        return f"{self.name} ({self.part}, {self.class_name})"


@dataclass(frozen=True, slots=True)
class ImagePair:
    """Two images that look alike. `bits` of 64 differ between their perceptual hashes; None: compared by a network.
    `similarity` is the correlation of the small grey pictures, or the cosine of the network's features.
    """

    a: ImageRef
    b: ImageRef
    bits: int | None
    similarity: float

    @property
    def key(self) -> tuple[str, str]:
        """The pair's hashes, in an order that does not depend on which was found first."""
        one, other = sorted((self.a.sha256, self.b.sha256))
        return one, other


@dataclass(frozen=True, slots=True)
class OddImage:
    """An image whose features lie nearer to the mean of another class than to that of its own (cosine distances)."""

    image: ImageRef
    nearest_class: str
    own_distance: float
    nearest_distance: float


@dataclass(frozen=True, slots=True)
class ExtremeImage:
    """An image that is nearly of one value: `what` is "uniform", "dark" or "bright"; brightness from 0 to 255."""

    image: ImageRef
    what: str
    mean: float
    std: float


@dataclass(frozen=True, slots=True)
class PartCounts:
    """The images of one part, by class in the order of the class names."""

    part: str
    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Kind:
    """How many files have one size (width, height), or one format and mode."""

    name: str
    number: int


@dataclass(frozen=True, slots=True)
class ByNetwork:
    """What run number `run`'s network says: pairs with nearly the same features, and images far from their class."""

    run: int
    pairs: tuple[ImagePair, ...]
    odd: tuple[OddImage, ...]


@dataclass(frozen=True, slots=True)
class Audit:
    """Facts about the images of one dataset, split in one way.

    `duplicates` are groups of identical images. `near` are pairs that look alike and are not identical; `near_note`
    says why they were not, or not completely, searched for. `test_sha256` and `train_sha256` are those of the runs on
    these images.
    """

    dataset: str
    class_names: tuple[str, ...]
    parts: tuple[PartCounts, ...]
    shape: tuple[int, int, int]
    sizes: tuple[Kind, ...]
    modes: tuple[Kind, ...]
    left_out: tuple[FileRecord, ...]
    test_sha256: str
    train_sha256: str
    duplicates: tuple[tuple[ImageRef, ...], ...]
    near: tuple[ImagePair, ...]
    near_note: str
    extreme: tuple[ExtremeImage, ...]
    notes: tuple[str, ...] = ()
    by_network: ByNetwork | None = None

    @property
    def num_images(self) -> int:
        return sum(part.total for part in self.parts)

    @property
    def left_out_by_kind(self) -> dict[str, int]:
        return left_out_by_kind(self.left_out)

    def duplicate_pairs(self) -> Iterator[ImagePair]:
        """The first image of each group with each of the others."""
        for first, *others in self.duplicates:
            yield from (ImagePair(first, other, 0, 1.0) for other in others)
