"""How a user's folder is laid out: which sub-folders are parts (training, validation, test) and which are classes.

Parts are recognised by their names, as Roboflow (train, valid, test), ImageNet (train, val) and Kaggle (training_set,
test_set) write them, and by their contents: a part holds class folders, a class holds images. Anything ambiguous is
refused with a sentence, never guessed. No image is opened here. Loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from engine.data.listing import folders_in, holds_files, holds_images_directly
from engine.errors import DatasetError
from engine.text import some_of

SplitRole = Literal["train", "val", "test"]

ASK_FOR = "expected one folder a class with images in it, or train/ and test/ folders of classes"
_WORDS: dict[SplitRole, str] = {"train": "training", "val": "validation", "test": "test"}
_NAMES: dict[SplitRole, tuple[str, ...]] = {
    "train": ("train", "training", "trainset", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "valset"),
    "test": ("test", "testing", "tests", "testset", "tst", "holdout", "eval", "evaluation"),
}
_ROLES: dict[str, SplitRole] = {name: part for part, names in _NAMES.items() for name in names}
_UNSAID: tuple[SplitRole, ...] = ("test", "val")  # a part with any other name is the first of these that is missing
_FILLERS = frozenset({"set", "data", "dataset", "image", "images", "imgs", "img", "split", "part", "folder"})


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file and its class; `part` if the dataset assigns it to one."""

    path: Path
    label: int
    part: SplitRole | None = None


@dataclass(frozen=True, slots=True)
class PartFolder:
    """A folder of classes. `part` is None if it is split by the spec's shares."""

    folder: Path
    part: SplitRole | None
    class_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The structure of a folder. `parts` has the training part first; `class_names` are that part's.

    `empty` are sub-folders without files, which are not classes; `passed_over` hold files, but are neither part nor
    class.
    """

    root: Path
    parts: tuple[PartFolder, ...]
    class_names: tuple[str, ...]
    empty: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()

    @property
    def has_val(self) -> bool:
        return any(part.part == "val" for part in self.parts)

    @property
    def notes(self) -> tuple[str, ...]:
        """How the sub-folders were interpreted, one sentence each; nothing if each is simply a class."""
        found = []
        named = [part for part in self.parts if part.folder != self.root]
        if named:
            found.append(", ".join(f"{p.folder.name} → {role_words(p.part)}" for p in named))
        if self.passed_over:
            found.append(f"not used, no class in common with the training part: {some_of(self.passed_over)}")
        if self.empty:
            found.append(f"empty folders, not used as classes: {some_of(self.empty)}")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class _Child:
    """A sub-folder that holds files: which of its own sub-folders do, and whether there are images next to them."""

    path: Path
    folders: frozenset[str]
    has_images: bool

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def role(self) -> SplitRole | None:
        return part_by_name(self.name)


def find_layout(root: Path) -> Layout:
    """Determine which sub-folders of `root` are parts and which are classes.

    Raises:
        DatasetError: the folder is missing or unreadable, or its sub-folders are ambiguous.
    """
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; {ASK_FOR}")
    root = _unwrapped(root)
    folders = folders_in(root)
    children = [_child(path) for path in folders if holds_files(path)]
    kept = {child.path for child in children}
    empty = [path.name for path in folders if path not in kept]
    roles = _parts_of(root, children)
    if roles is None:
        names = tuple(child.name for child in children)
        _check_number(root, names, empty)
        return Layout(root, (PartFolder(root, None, names),), names, tuple(empty))
    parts = tuple(_part_folder(root, child, part, empty) for child, part in roles)
    train, *others = parts
    _check_number(train.folder, train.class_names, empty)
    for part in others:
        _check_known(train, part)
    used = {part.folder for part in parts}
    passed_over = [child.name for child in children if _unwrapped(child.path) not in used]
    return Layout(root, parts, train.class_names, tuple(empty), tuple(passed_over))


def part_by_name(name: str) -> SplitRole | None:
    """The part that a folder's name stands for, in any case and with filler words: `Train`, `training_set`,
    `val2017`.
    """
    tokens = [token for token in _tokens(name) if token not in _FILLERS]
    return _ROLES.get(tokens[0]) if len(tokens) == 1 else None


def choose_roles(where: str, parts: Collection[SplitRole]) -> Mapping[SplitRole | None, SplitRole | None]:
    """What each part is used for, where parts are given by name: a single one beside the training part is the test set.

    Empty if the training part is the only one: it is then split by the spec's shares.

    Raises:
        DatasetError: there are parts, but none for training.
    """
    if "train" not in parts:
        raise DatasetError(f"{where} has no training part; expected train, val and test, or no parts at all")
    if len(parts) == 1:
        return {}
    return {
        "train": "train",
        **{part: part if "test" in parts else "test" for part in ("val", "test") if part in parts},
    }


def notes_on_roles(roles: Mapping[SplitRole | None, SplitRole | None]) -> list[str]:
    """One sentence on how parts are used; none if there are none."""
    return [", ".join(f"{part} → {role_words(role)}" for part, role in roles.items())] if roles else []


def refuse_second_val(where: str, part: str) -> NoReturn:
    """Only one validation set makes sense; do not drop either of two silently."""
    raise DatasetError(
        f"{where} has a validation part of its own, {part}; set val share to 0 to use it, or move it elsewhere to hold "
        "out training images"
    )


def role_words(part: SplitRole | None) -> str:
    """What a part is used for, in words."""
    return "split into training and test" if part is None else _WORDS[part]


def _tokens(name: str) -> list[str]:
    return [token for token in re.split(r"[\W_\d]+", name.lower()) if token]


def _unwrapped(folder: Path) -> Path:
    """Archives are often unpacked into a folder of their own name: `pets/pets/…` means the inner one."""
    for _ in range(3):
        inside = folders_in(folder)
        alone = len(inside) == 1 and inside[0].name.lower() == folder.name.lower()
        if not alone or holds_images_directly(folder):
            break
        folder = inside[0]
    return folder


def _child(path: Path) -> _Child:
    inner = _unwrapped(path)
    return _Child(
        path, frozenset(sub.name for sub in folders_in(inner) if holds_files(sub)), holds_images_directly(inner)
    )


def _part_folder(root: Path, child: _Child, part: SplitRole | None, empty: list[str]) -> PartFolder:
    folder = _unwrapped(child.path)
    empty += [str(sub.relative_to(root)) for sub in folders_in(folder) if sub.name not in child.folders]
    return PartFolder(folder, part, tuple(sorted(child.folders)))


def _parts_of(root: Path, children: Sequence[_Child]) -> list[tuple[_Child, SplitRole | None]] | None:
    """The parts, training part first; None if the sub-folders are classes."""
    trains = [child for child in children if child.role == "train" and child.folders]
    if not trains:
        if (loose := _loosely_named(children)) is not None:
            return _in_order(root, loose)
        _refuse_parts_without_classes(root, children)
        return None
    if len(trains) > 1:
        raise _ambiguous(root, trains, "could each be the training part")
    train, others = trains[0], [child for child in children if child is not trains[0]]
    if not others:
        return [(train, None)]
    _refuse_loose_images(others)
    named = [child for child in others if child.role is not None and child.folders]
    kin = [child for child in others if child not in named and child.folders & train.folders]
    if not named and not kin:
        if len(others) == 1:
            raise DatasetError(
                f"{root}: train/ holds folders, but {others[0].name} shares none of them, so it is not clear whether "
                f"these are two parts or two classes; give both the same class folders, or choose {train.path} alone"
            )
        return None  # classes; one of them is called train and has sub-folders
    return _in_order(root, [(train, "train"), *_with_roles(root, named, kin)])


def _with_roles(root: Path, named: Sequence[_Child], kin: Sequence[_Child]) -> list[tuple[_Child, SplitRole]]:
    """The other parts: those recognised by name, and at most one inferred from them."""
    found = [(child, child.role) for child in named if child.role is not None]
    taken = {part for _, part in found}
    free = [part for part in _UNSAID if part not in taken]
    if len(kin) > 1 or (kin and not free):
        raise _ambiguous(root, kin, "could be parts or not")
    return [*found, *((child, free[0]) for child in kin)]


def _in_order(root: Path, roles: Sequence[tuple[_Child, SplitRole]]) -> list[tuple[_Child, SplitRole | None]]:
    ordered: list[tuple[_Child, SplitRole | None]] = []
    for part in _WORDS:
        same = [child for child, its in roles if its == part]
        if len(same) > 1:
            raise _ambiguous(root, same, f"could each be the {_WORDS[part]} part")
        ordered += [(child, its) for child, its in roles if its == part]
    if len(ordered) == 2:  # a single other part is the test set
        ordered[1] = (ordered[1][0], "test")
    return ordered


def _loosely_named(children: Sequence[_Child]) -> list[tuple[_Child, SplitRole]] | None:
    """Names such as seg_train and seg_test, if every sub-folder has one and all share some class."""
    roles = []
    for child in children:
        found = {_ROLES[token] for token in _tokens(child.name) if token in _ROLES}
        if len(found) != 1 or not child.folders:
            return None
        roles.append((child, found.pop()))
    common = frozenset.intersection(*(child.folders for child in children)) if children else frozenset()
    return roles if len(roles) > 1 and common and any(part == "train" for _, part in roles) else None


def _refuse_parts_without_classes(root: Path, children: Sequence[_Child]) -> None:
    """Sub-folders that all have names of parts are hardly classes, even if none can be the training part."""
    if len(children) < 2 or any(child.role is None for child in children):
        return
    names = " and ".join(child.name for child in children)
    if any(child.role == "train" for child in children):
        raise DatasetError(f"{root}: {names} hold images directly, so their classes are unknown; {ASK_FOR}")
    raise DatasetError(f"{root} has {names}, but no training part; {ASK_FOR}")


def _refuse_loose_images(others: Sequence[_Child]) -> None:
    for child in others:
        if child.role is not None and not child.folders and child.has_images:
            raise DatasetError(
                f"{child.path} holds images directly, so their classes are unknown; sort them into class folders, or "
                f"choose the folder {child.path.parent / 'train'} alone"
            )


def _ambiguous(root: Path, children: Sequence[_Child], what: str) -> DatasetError:
    names = " and ".join(child.name for child in children)
    return DatasetError(f"{root}: {names} {what}; name the parts train, val and test, and move the others elsewhere")


def _check_number(folder: Path, names: Sequence[str], empty: Sequence[str]) -> None:
    if len(names) < 2:
        without = f" ({some_of(empty)} without a file)" if empty else ""
        raise DatasetError(
            f"{folder} has {len(names)} class folder{'' if len(names) == 1 else 's'}{without}; {ASK_FOR}"
        )


def _check_known(train: PartFolder, part: PartFolder) -> None:
    """A class without training images can never be predicted."""
    if unknown := sorted(set(part.class_names) - set(train.class_names)):
        raise DatasetError(
            f"{train.folder} has no image of {some_of(unknown)}, which {part.folder} has; add training images, or move "
            "those folders elsewhere"
        )
