"""A folder of class folders: images, videos, or clips as folders of frames."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vpeft.core.datasets.own.found import (
    EXPECTED,
    PARTS,
    TEST,
    TRAIN,
    OwnData,
    OwnSample,
    natural,
    need_classes,
    some,
)
from vpeft.core.datasets.own.walk import files_below, folder_entries, is_image, is_video, need_utf8
from vpeft.errors import UserError, printable

#: Images that a folder must have to be a clip.
FEWEST_FRAMES = 2


@dataclass(frozen=True)
class _ClassFolder:
    """What is in the folder of one class."""

    name: str
    part: str | None
    folder: Path
    images: tuple[Path, ...]
    videos: tuple[Path, ...]

    @property
    def clips(self) -> dict[Path, list[Path]]:
        """Images by the folder right below the class that they lie in; empty where not all do."""
        found: dict[Path, list[Path]] = {}
        for image in self.images:
            if len(image.relative_to(self.folder).parts) != 2:
                return {}
            found.setdefault(image.parent, []).append(image)
        return found if all(len(frames) >= FEWEST_FRAMES for frames in found.values()) else {}


def read_class_folders(root: Path, family: str | None = None) -> OwnData:
    """Read a folder of class folders, with or without folders of parts above them.

    Args:
        root: The folder, resolved.
        family: ``classification`` or ``video``; found out unless given.

    Raises:
        UserError: It is none, or a mixed one; the line says what was seen and what is expected.
    """
    notes: list[str] = []
    found = [
        one for part, folder in _part_folders(root, notes).items() for one in _classes_in(folder, part, root, notes)
    ]
    images, videos = sum(len(one.images) for one in found), sum(len(one.videos) for one in found)
    if not images and not videos:
        raise UserError(f"{printable(root)} holds no images or videos in class folders; {EXPECTED}.")
    if images and videos:
        a, b = (next(one for one in found if getattr(one, kind)) for kind in ("images", "videos"))
        raise UserError(
            f"{printable(root)} holds {images:,} images (first in {printable(a.folder.name)}/) and {videos:,} videos "
            f"(first in {printable(b.folder.name)}/): give a folder of one kind."
        )
    known = need_classes(sorted({o.name for o in found if o.part in (None, TRAIN)}, key=natural), printable(root))
    if strange := [one for one in found if one.name not in known]:
        raise UserError(
            f"{printable(strange[0].folder)}: the class {strange[0].name!r} is not in {TRAIN}/: add it, or move it "
            "away."
        )
    frames = not videos and _are_frames(found, family, root)
    if family == "classification" and videos:
        raise UserError(f"{printable(root)} holds videos: they are of the family video, not {family}.")
    samples = [sample for one in found for sample in _samples(one, known.index(one.name), frames)]
    kind = "folders of frames by class" if frames else "folders of videos by class" if videos else "folders of classes"
    return OwnData(
        kind, "video" if videos or frames else "classification", root, known, tuple(samples), notes=tuple(notes)
    )


def _part_folders(root: Path, notes: list[str]) -> dict[str | None, Path]:
    """The folders that hold class folders, by part; the root itself where it has no parts."""
    folders, _ = folder_entries(root, root)
    parts = [folder for folder in folders if folder.name.lower() in PARTS]
    if not parts:
        return {None: root}
    named: dict[str | None, Path] = {}
    for folder in parts:
        part = PARTS[folder.name.lower()]
        if part in named:
            raise UserError(
                f"{printable(root)} holds {named[part].name}/ and {folder.name}/, one part twice: join them."
            )
        named[part] = folder
    others = [f for f in folders if f not in parts and any(is_image(x) or is_video(x) for x in files_below(f, root))]
    if others:
        raise UserError(
            f"{printable(root)} holds {', '.join(f'{f.name}/' for f in parts)} and beside them "
            f"{some([f'{f.name}/' for f in others])} with images or videos: move them into a part, or away."
        )
    if TRAIN not in named:
        raise UserError(
            f"{printable(root)} holds {', '.join(f'{f.name}/' for f in parts)} and no train/: there is nothing to "
            "learn from."
        )
    return {part: named[part] for part in (TRAIN, "val", TEST) if part in named}


def _classes_in(folder: Path, part: str | None, root: Path, notes: list[str]) -> list[_ClassFolder]:
    folders, files = folder_entries(folder, root)
    loose = [file for file in files if is_image(file) or is_video(file)]
    if loose and part == TEST and not folders:
        notes.append(f"{folder.name}/ holds {len(loose):,} images without classes: nothing is tested on them")
        return []
    if loose:
        seen = "and no class folders" if not folders else f"beside the {len(folders)} class folders"
        raise UserError(
            f"{printable(folder)} holds {len(loose):,} images or videos {seen}, first {printable(loose[0].name)}; "
            f"{EXPECTED}."
        )
    found, other = [], Counter()
    for one in folders:
        files = [need_utf8(file) for file in files_below(one, root)]
        images = tuple(sorted((f for f in files if is_image(f)), key=lambda f: natural(str(f))))
        videos = tuple(sorted((f for f in files if is_video(f)), key=lambda f: natural(str(f))))
        other.update(f.suffix.lower() or f.name for f in files if not is_image(f) and not is_video(f))
        if images or videos:
            found.append(_ClassFolder(one.name, part, one, images, videos))
        else:
            notes.append(f"{one.relative_to(root)}/ holds no image or video: no class is made of it")
    if other:
        notes.append(f"{sum(other.values()):,} files of other kinds are passed over ({some(sorted(other))})")
    return found


def _are_frames(found: Sequence[_ClassFolder], family: str | None, root: Path) -> bool:
    """Whether images are frames of clips."""
    clips = [clip for one in found for clip in one.clips.values()]
    possible = bool(clips) and all(one.clips for one in found)
    if family == "video" and not possible:
        raise UserError(
            f"{printable(root)} holds images: --family video needs videos, or a folder of {FEWEST_FRAMES} or more "
            "frames for each clip in each class folder."
        )
    return family == "video" or (family is None and possible and all(_are_numbered(clip) for clip in clips))


def _are_numbered(frames: Sequence[Path]) -> bool:
    """Whether names are one text each with numbers that rise by one."""
    matches = [re.fullmatch(r"(.*?)(\d+)", frame.stem) for frame in frames]
    if not all(matches) or len({match[1] for match in matches}) != 1:
        return False
    numbers = [int(match[2]) for match in matches]
    return all(b - a == 1 for a, b in itertools.pairwise(numbers))


def _samples(one: _ClassFolder, label: int, frames: bool) -> list[OwnSample]:
    if frames:
        return [OwnSample(folder, (label,), one.part, frames=tuple(f)) for folder, f in one.clips.items()]
    return [OwnSample(file, (label,), one.part) for file in (*one.images, *one.videos)]
