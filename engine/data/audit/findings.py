"""From the facts of an audit to findings: how many, which, and what that means for the figures of a run.

A person's decisions on near-duplicates ("same", "different") count here, so a kept audit need not be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from engine.data.audit.rules import MOST_ODD, MOST_PAIRS
from engine.data.audit.values import PART_WORDS, PARTS, Audit, ImagePair, ImageRef, PartCounts
from engine.data.manifest import kind_of, left_out_text
from engine.text import counted, some_of

Decision = Literal["same", "different"]
Decisions = Mapping[tuple[str, str], str]
"""By the hashes of a pair, in order."""
IMBALANCED = 3.0
"""Ratio of the largest to the smallest class from which it is reported."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`title` says what, `number` how many, `meaning` what it does to the figures; `items` are the lines of the list,
    `images` those that it is about, for marking and excluding.
    """

    kind: str
    title: str
    number: int
    meaning: str
    items: tuple[str, ...]
    images: tuple[ImageRef, ...] = ()


def findings_of(audit: Audit, decisions: Decisions, batch_size: int) -> tuple[Finding, ...]:
    """Everything worth a look, the gravest first; empty if there is nothing."""
    found = (
        _across_parts(audit),
        _confirmed_across_parts(audit, decisions),
        _conflicting(audit, decisions),
        _near(audit, decisions),
        _within_parts(audit),
        _left_out(audit),
        _imbalance(audit),
        _small_classes(audit, batch_size),
        _extreme(audit),
        *_by_network(audit),
    )
    return tuple(item for item in found if item is not None and item.number)


def suspects(audit: Audit, decisions: Decisions) -> tuple[int, ...]:
    """Positions of the test images that also lie in the training set: identical, or the same by a person's decision."""
    found = {image.index for group in audit.duplicates if _has(group, "train") for image in group if _in(image, "test")}
    for pair in _decided(audit, decisions, "same"):
        if {pair.a.part, pair.b.part} == {"train", "test"}:
            found.add(pair.b.index if _in(pair.b, "test") else pair.a.index)
    return tuple(sorted(found))


def pairs_to_decide(audit: Audit) -> tuple[ImagePair, ...]:
    """Near-duplicates, across parts first, then the most alike."""
    pairs = [*audit.near, *(audit.by_network.pairs if audit.by_network else ())]
    return tuple(sorted(pairs, key=lambda pair: (pair.a.part == pair.b.part, pair.bits or 0, -pair.similarity)))


def _decided(audit: Audit, decisions: Decisions, decision: Decision) -> list[ImagePair]:
    return [pair for pair in pairs_to_decide(audit) if decisions.get(pair.key) == decision]


def _in(image: ImageRef, part: str) -> bool:
    return image.part == part


def _has(images: Sequence[ImageRef], part: str) -> bool:
    return any(_in(image, part) for image in images)


def _across_parts(audit: Audit) -> Finding | None:
    """Identical images in two parts."""
    groups = [group for group in audit.duplicates if len({image.part for image in group}) > 1]
    later = [image for group in groups for image in group if image.part != min(group, key=_order).part]
    meaning = " ".join(_shared_sentence(audit, groups, one, other) for one, other in combinations(PARTS, 2)).strip()
    items = tuple(" = ".join(image.label for image in group) for group in groups)
    return Finding("duplicates-across-parts", "identical images in two parts", len(later), meaning, items, tuple(later))


def _order(image: ImageRef) -> tuple[int, int]:
    return PARTS.index(image.part), image.index


def _shared_sentence(audit: Audit, groups: Sequence[Sequence[ImageRef]], one: str, other: str) -> str:
    number = sum(_in(image, other) for group in groups if _has(group, one) for image in group)
    return _also_in(audit, number, one, other) if number else ""


def _also_in(audit: Audit, number: int, one: str, other: str) -> str:
    total = next(part.total for part in audit.parts if part.part == other)
    seen = "the network has seen it, so it counts" if number == 1 else "the network has seen them, so they count"
    known = f"{seen} as right too easily" if one == "train" else "the test set is not new"
    return (
        f"{number:,} of {total:,} {PART_WORDS[other]} images also {'lies' if number == 1 else 'lie'} in the "
        f"{PART_WORDS[one]} set: {known}."
    )


def _confirmed_across_parts(audit: Audit, decisions: Decisions) -> Finding | None:
    pairs = [pair for pair in _decided(audit, decisions, "same") if pair.a.part != pair.b.part]
    later = tuple(dict.fromkeys(max(pair.a, pair.b, key=_order) for pair in pairs))
    number = len({image.index for image in later if _in(image, "test")})
    meaning = _also_in(audit, number, "train", "test") if number else "They lie in two parts."
    title = "near-duplicates in two parts, confirmed as the same"
    return Finding("confirmed-across-parts", title, len(later), meaning, tuple(map(_pair_line, pairs)), later)


def _conflicting(audit: Audit, decisions: Decisions) -> Finding | None:
    groups = [group for group in audit.duplicates if len({image.class_name for image in group}) > 1]
    groups += [(p.a, p.b) for p in _decided(audit, decisions, "same") if p.a.class_name != p.b.class_name]
    classes = sorted({image.class_name for group in groups for image in group})
    meaning = f"One of their labels is wrong; no network can get them all right ({some_of(classes)})."
    items = tuple(" = ".join(image.label for image in group) for group in groups)
    images = tuple(image for group in groups for image in group)
    return Finding("conflicting-labels", "images in more than one class", len(groups), meaning, items, images)


def _near(audit: Audit, decisions: Decisions) -> Finding | None:
    pairs = [pair for pair in pairs_to_decide(audit) if pair.bits is not None and pair.key not in decisions]
    test = len(_test_of(pairs))
    meaning = (
        f"{counted(test, 'test image')} may also lie in the training set; decide pair by pair."
        if test
        else "None lies in both training and test; within a part they count twice."
    )
    note = f" {audit.near_note}" if audit.near_note else ""
    images = tuple(max(pair.a, pair.b, key=_order) for pair in pairs)
    title = "pairs that look alike (near-duplicates, undecided)"
    return Finding("near-duplicates", title, len(pairs), meaning + note, tuple(map(_pair_line, pairs)), images)


def _crosses(pair: ImagePair) -> bool:
    return {pair.a.part, pair.b.part} == {"train", "test"}


def _test_of(pairs: Sequence[ImagePair]) -> set[int]:
    return {(pair.b if _in(pair.b, "test") else pair.a).index for pair in pairs if _crosses(pair)}


def _within_parts(audit: Audit) -> Finding | None:
    groups = [
        [image for image in group if _in(image, part)]
        for group in audit.duplicates
        for part in dict.fromkeys(image.part for image in group)
    ]
    groups = [group for group in groups if len(group) > 1]
    extra = tuple(image for group in groups for image in group[1:])
    meaning = "They count more than once: in training as a heavier image, in the test as a heavier answer."
    items = tuple(" = ".join(image.label for image in group) for group in groups)
    return Finding("duplicates-within-parts", "identical images within a part", len(extra), meaning, items, extra)


def _left_out(audit: Audit) -> Finding | None:
    items = tuple(f"{record.file}: {record.problem}" for record in audit.left_out)
    damaged = sum(kind_of(record.problem or "") not in ("system file", "excluded") for record in audit.left_out)
    meaning = f"{left_out_text(audit.left_out_by_kind)}; {counted(damaged, 'image')} that others may count are missing."
    return Finding("left-out", "files left out", len(audit.left_out), meaning, items)


def _imbalance(audit: Audit) -> Finding | None:
    counts = _train(audit).counts
    smallest, largest = min(counts), max(counts)
    if not smallest or largest / smallest < IMBALANCED:
        return None
    names = sorted(zip(counts, audit.class_names, strict=True))
    meaning = (
        f"Largest to smallest {largest / smallest:.1f} : 1 in training; accuracy says little about small classes, "
        "so read balanced accuracy and macro F1."
    )
    return Finding("imbalance", "classes of unequal size", len(counts), meaning, _count_lines(names))


def _small_classes(audit: Audit, batch_size: int) -> Finding | None:
    names = sorted((n, name) for n, name in zip(_train(audit).counts, audit.class_names, strict=True) if n < batch_size)
    meaning = f"Fewer training images than a batch of {batch_size:,}: many steps see few of them, or none."
    return Finding("small-classes", "classes with fewer images than a batch", len(names), meaning, _count_lines(names))


def _count_lines(names: Sequence[tuple[int, str]]) -> tuple[str, ...]:
    return tuple(f"{name}: {counted(number, 'training image')}" for number, name in names)


def _train(audit: Audit) -> PartCounts:
    return next(part for part in audit.parts if part.part == "train")


def _extreme(audit: Audit) -> Finding | None:
    words = {"uniform": "nearly one colour", "dark": "nearly black", "bright": "nearly white"}
    items = tuple(
        f"{item.image.label}: {words[item.what]}, mean {item.mean:.0f}, standard deviation {item.std:.1f} of 255"
        for item in audit.extreme
    )
    meaning = "By brightness alone, not by what they show: they may hold nothing to learn from."
    images = tuple(item.image for item in audit.extreme)
    return Finding("extreme-brightness", "images that are nearly uniform, black or white", len(items), meaning, items,
                   images)  # fmt: skip


def _by_network(audit: Audit) -> tuple[Finding, ...]:
    found = audit.by_network
    if found is None:
        return ()
    odd = tuple(
        f"{item.image.label}: nearer to {item.nearest_class} ({item.nearest_distance:.3f}) than to "
        f"{item.image.class_name} ({item.own_distance:.3f})"
        for item in found.odd
    )
    number = sum(_in(item.image, "test") for item in found.odd)
    first = " Only the farthest are kept." if len(odd) == MOST_ODD else ""
    closest = " Only the most similar are kept." if len(found.pairs) == MOST_PAIRS else ""
    return (
        Finding("far-from-class", f"images far from their class, by run {found.run}", len(odd),
                f"Their labels may be wrong, or they are hard; {number:,} of them are test images.{first}", odd,
                tuple(item.image for item in found.odd)),
        Finding("alike-by-network", f"pairs that run {found.run} can hardly tell apart", len(found.pairs),
                f"The same image, or only the same to this network: decide pair by pair.{closest}",
                tuple(map(_pair_line, found.pairs))),
    )  # fmt: skip


def _pair_line(pair: ImagePair) -> str:
    how = f"{pair.bits} of 64 bits differ" if pair.bits is not None else f"cosine {pair.similarity:.4f}"
    return f"{pair.a.label} ~ {pair.b.label}: {how}"
