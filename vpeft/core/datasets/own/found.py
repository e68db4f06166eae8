"""What was found in a user's own data: samples of any family, in one form."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vpeft.errors import UserError, printable

#: What data can be of; ``instances`` are objects with masks, ``detection`` is of boxes alone.
FAMILIES = ("classification", "detection", "instances", "segmentation", "video")
#: Names of the parts of a data set in files and folders.
PARTS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
TRAIN, VAL, TEST = "train", "val", "test"
#: What is expected, for messages.
EXPECTED = (
    "expected is a folder of class folders (images, videos, or folders of frames), with or without train/val/test; a "
    "CSV of paths and labels; a COCO file; a YOLO folder (images/, labels/); or images/ and label maps (masks/)"
)
SHOWN = 3


@dataclass(frozen=True)
class OwnSample:
    """One image or clip.

    Attributes:
        path: Its file; of a clip of frames the folder.
        labels: Numbers of the classes that it shows, ascending, each once; of a label map they are known once it was
            read.
        part: ``train``, ``val`` or ``test``; None where the data do not say.
        label_map: Of segmentation, the file of its label map.
        objects: Of detection, its objects: COCO annotations without ids of images.
        size: Width and height that the data state, None where they state none.
        frames: Of a clip of frames, the files in order.
    """

    path: Path
    labels: tuple[int, ...] = ()
    part: str | None = None
    label_map: Path | None = None
    objects: tuple[dict[str, Any], ...] = ()
    size: tuple[int, int] | None = None
    frames: tuple[Path, ...] = ()


@dataclass(frozen=True)
class OwnData:
    """A user's data.

    Attributes:
        kind: How it lies, in words: ``folders of classes``.
        family: One of :data:`FAMILIES`.
        root: Folder that the paths of all samples are below of, or the file's folder.
        classes: Names, by number.
        samples: In a stated order, the same on every machine.
        multi_label: Whether an image may show several classes or none (classification).
        notes: What was passed over, a line each.
    """

    kind: str
    family: str
    root: Path
    classes: tuple[str, ...]
    samples: tuple[OwnSample, ...]
    multi_label: bool = False
    notes: tuple[str, ...] = ()

    def part(self, name: str | None) -> list[OwnSample]:
        """The samples of a part."""
        return [sample for sample in self.samples if sample.part == name]

    def with_samples(self, samples: Iterable[OwnSample], notes: Iterable[str] = ()) -> OwnData:
        """The same with other samples, and further notes."""
        return replace(self, samples=tuple(samples), notes=(*self.notes, *notes))

    def said(self) -> str:
        """What it is, in one line."""
        parts = {part: len(self.part(part)) for part in (TRAIN, VAL, TEST) if self.part(part)}
        things = "clips" if self.family == "video" else "images"
        several = ", several classes an image" if self.multi_label else ""
        counts = f" ({', '.join(f'{name} {count:,}' for name, count in parts.items())})" if parts else ""
        return printable(
            f"{self.kind}: {self.family}, {len(self.samples):,} {things}{counts}, {len(self.classes)} classes{several}"
        )


def natural(text: str) -> tuple[Any, ...]:
    """A key that sorts names as people do: ``img2`` before ``img10``."""
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.findall(r"\d+|\D+", text))


def some(items: Sequence[Any], shown: int = SHOWN) -> str:
    """The first items of a list as text, and how many more there are."""
    rest = f" and {len(items) - shown} more" if len(items) > shown else ""
    return printable(", ".join(map(str, items[:shown])) + rest)


def part_of(name: str) -> str | None:
    """The part that a name of a file or folder says: ``instances_val2017`` is of val; None where it says none."""
    words = [word.rstrip("0123456789") for word in re.split(r"[^a-z0-9]+", name.lower())]
    found = {PARTS[word] for word in words if word in PARTS}
    return found.pop() if len(found) == 1 else None


def need_classes(names: Sequence[str], where: str, least: int = 2) -> tuple[str, ...]:
    """The names of classes, checked.

    Raises:
        UserError: Too few, an empty name, or one name twice.
    """
    names = [str(name) for name in names]
    if len(names) < least:
        only = f"one class alone, {printable(names[0])!r}" if names else "no class"
        raise UserError(f"{where}: {only}: there is nothing to tell apart; {EXPECTED}.")
    twice = sorted({name for name in names if names.count(name) > 1} | ({""} & set(names)))
    if twice:
        raise UserError(f"{where}: the class {twice[0]!r} is named twice, or by nothing: give each a name of its own.")
    return tuple(names)
