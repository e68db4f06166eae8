"""Looking at every file of a user's data before anything is trained on them."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from vpeft.core.datasets.load.image import FORMATS, LoadImage
from vpeft.core.datasets.own.duplicates import groups_of
from vpeft.core.datasets.own.found import TEST, TRAIN, VAL, OwnData, OwnSample, some
from vpeft.core.datasets.own.map_folders import sizes_differ
from vpeft.errors import UserError, one_line, printable

#: Pixels of the shorter side below which an image is called tiny.
TINY = 16
#: Samples of a class below which it is called rare.
RARE = 5
#: The share of files that may be broken; of more the data are another thing than they seem.
BROKEN = 0.5
#: Sides of the small pictures that are compared.
_SMALL = 16
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class FileFacts:
    """What is known of one file.

    Attributes:
        fault: Why it cannot be read, None where it can.
        digest: Hash of its bytes.
        size: Width and height, turned as EXIF says; None of a clip.
        mode: Of its pixels: ``RGB``, ``L``, ``RGBA``, ``I;16``, ...; empty of a video.
        turned: Whether EXIF turns it.
        bits: 64 bits of its perceptual hash, packed; empty of a clip.
        small: Its pixels at 16 x 16.
        frames: How many a clip has, as its container says.
        pages: How many pictures an image file holds, of which the first is read.
    """

    fault: str | None
    digest: str = ""
    size: tuple[int, int] | None = None
    mode: str = ""
    turned: bool = False
    bits: bytes = b""
    small: bytes = b""
    frames: int = 1
    pages: int = 1


@dataclass(frozen=True)
class OwnLook:
    """What was seen in data.

    Attributes:
        data: The data, without files that cannot be read.
        facts: Of each sample of ``data``.
        broken: Files that were left out, and why.
        groups: Number of the group of each sample: what looks the same has one number.
    """

    data: OwnData
    facts: tuple[FileFacts, ...]
    broken: tuple[tuple[Path, str], ...]
    groups: tuple[int, ...]

    def counts(self) -> dict[str, dict[str, int]]:
        """Samples by class and part (``train``, ``val``, ``test``); one of several classes counts for each."""
        found = {name: Counter() for name in self.data.classes}
        for sample in self.data.samples:
            for label in sample.labels:
                found[self.data.classes[label]][sample.part or TRAIN] += 1
        return found

    def warnings(self) -> list[str]:
        """What a user should know, a line each."""
        lines = [f"left out, since it cannot be read: {printable(path)} ({why})" for path, why in self.broken[:3]]
        lines += [f"and {len(self.broken) - 3} more that cannot be read"] * (len(self.broken) > 3)
        lines += self.data.notes
        if tiny := [
            s.path.name for s, f in zip(self.data.samples, self.facts, strict=True) if f.size and min(f.size) < TINY
        ]:
            lines.append(f"{len(tiny)} images are smaller than {TINY} pixels: {some(tiny)}")
        if several := [
            f"{s.path.name} ({f.pages})" for s, f in zip(self.data.samples, self.facts, strict=True) if f.pages > 1
        ]:
            lines.append(f"{len(several)} images hold several pictures, of which the first is read: {some(several)}")
        if alike := names_alike(self.data.classes):
            lines.append(f"classes whose names say the same are classes of their own: {some(alike)}")
        counts = {name: sum(by_part.values()) for name, by_part in self.counts().items()}
        if rare := [f"{name} ({count})" for name, count in counts.items() if count < RARE]:
            who = "1 class has" if len(rare) == 1 else f"{len(rare)} classes have"
            lines.append(f"{who} fewer than {RARE} samples: {some(rare)}")
        if alone := [name for name, part in self.counts().items() if self._is_divided() and not part[VAL]]:
            lines.append(f"{len(alone)} classes have no sample to validate on: {some(alone)}")
        return lines + self._duplicates()

    def _is_divided(self) -> bool:
        return bool(self.data.part(VAL))

    def _duplicates(self) -> list[str]:
        members = defaultdict(list)
        for index, group in enumerate(self.groups):
            members[group].append(index)
        several = [found for found in members.values() if len(found) > 1]
        lines, samples = [], self.data.samples
        if several:
            same = sum(len(found) for found in several)
            lines.append(f"{same} images look like another one ({len(several)} groups): each group is in one part")
        across = [f for f in several if len({samples[i].part for i in f}) > 1]
        if across:
            lines[-1] = lines[-1].partition(":")[0]
            pairs = [" = ".join(f"{samples[i].part}/{samples[i].path.name}" for i in found[:2]) for found in across]
            held = sum(samples[i].part in (VAL, TEST) for found in across for i in found)
            lines.append(
                f"{held} images of val or test look like one of another part, so that its figure flatters: "
                f"{some(pairs)}"
            )
        exact = defaultdict(list)
        for index, fact in enumerate(self.facts):
            exact[fact.digest].append(index)
        other = [f for f in exact.values() if len({samples[i].labels for i in f}) > 1]
        if other and self.data.family in ("classification", "video"):
            named = [
                " = ".join(f"{samples[i].path.parent.name}/{samples[i].path.name}" for i in found[:2])
                for found in other
            ]
            lines.append(f"{len(other)} files stand in several classes: {some(named)}")
        return lines


def names_alike(names: Iterable[str]) -> list[str]:
    """Names that differ in capitals, spaces, leading zeros or the spelling of a sign alone, as ``Cat = cat``."""
    found = defaultdict(list)
    for name in names:
        words = re.findall(r"(?<!\w)-\d+|\d+|[^\W\d_]+|[^\w\s-]", unicodedata.normalize("NFKC", name).casefold())
        found[tuple(word.lstrip("0") if word.isdecimal() else word for word in words)].append(name)
    groups = [group for group in found.values() if len(group) > 1]
    # What looks the same on a screen is shown by its code points.
    return [
        " = ".join(map(ascii if len({unicodedata.normalize("NFKC", name) for name in group}) == 1 else str, group))
        for group in groups
    ]


def look_at_data(data: OwnData, quiet: bool = True, groups: bool = True) -> OwnLook:
    """Open every file, several at a time.

    Args:
        data: What was recognised.
        quiet: Show no bar.
        groups: OwnLook for duplicates.

    Raises:
        UserError: More than half of the files cannot be read, or the sizes that annotations and label maps state are
            not those of their images.
    """
    console = Console(stderr=True)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        read = threads.map(_facts, data.samples)
        bar = track(
            read,
            "looking at the files",
            len(data.samples),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        facts = list(bar)
    broken = [(sample.path, fact.fault) for sample, fact in zip(data.samples, facts, strict=True) if fact.fault]
    if len(broken) > BROKEN * len(facts):
        raise UserError(
            f"{len(broken)} of {len(facts)} files cannot be read, first {printable(broken[0][0])}: {broken[0][1]}."
        )
    whole = [(sample, fact) for sample, fact in zip(data.samples, facts, strict=True) if not fact.fault]
    samples = [_sized(sample, fact) for sample, fact in whole]
    kept = tuple(fact for _, fact in whole)
    numbers = _groups(kept) if groups else range(len(kept))
    return OwnLook(data.with_samples(samples), kept, tuple(broken), tuple(int(number) for number in numbers))


def _groups(facts: Sequence[FileFacts]) -> Iterable[int]:
    digests = [fact.digest for fact in facts]
    if not all(fact.bits for fact in facts):
        return groups_of(digests)
    hashes = np.unpackbits(np.frombuffer(b"".join(f.bits for f in facts), np.uint8).reshape(len(facts), -1), axis=1)
    small = np.frombuffer(b"".join(fact.small for fact in facts), np.uint8).reshape(len(facts), -1)
    return groups_of(digests, hashes.astype(bool), small)


def _facts(sample: OwnSample) -> FileFacts:
    if sample.frames:
        return _of_frames(sample)
    try:
        digest = _digest([sample.path])
    except OSError as error:
        return FileFacts(f"cannot be read ({error.strerror or error})")
    from vpeft.core.datasets.own.walk import is_video

    if is_video(sample.path):
        from vpeft.core.datasets.load.video import fault, frame_count

        reason = fault(str(sample.path))
        return FileFacts(reason, digest, frames=1 if reason else frame_count(str(sample.path)))
    return _of_image(sample.path, digest)


def _digest(files: Iterable[Path]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for file in files:
        with open(file, "rb") as opened:
            found.update(
                hashlib.file_digest(opened, "blake2b").digest() if hasattr(hashlib, "file_digest") else opened.read()
            )
    return found.hexdigest()


def _of_image(path: Path, digest: str) -> FileFacts:
    try:
        pixels = LoadImage.read(path)
    except UserError as error:
        return FileFacts(_reason(error), digest)
    with Image.open(path, formats=FORMATS) as image:
        mode, turned = image.mode, image.getexif().get(_ORIENTATION, 1) not in (0, 1)
        pages = _pages(image)
    picture = Image.fromarray(pixels[..., ::-1])
    bits = np.packbits(imagehash.phash(picture).hash.ravel()).tobytes()
    small = picture.resize((_SMALL, _SMALL), Image.Resampling.BOX).tobytes()
    return FileFacts(None, digest, picture.size, mode, turned, bits, small, pages=pages)


def _pages(image: Image.Image) -> int:
    """Pictures in a file, as far as they can be counted."""
    try:
        return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO: a photograph and its previews
    except Exception:  # the first is whole; PIL's decoders raise whatever broken others make them stumble over
        return 1


def _of_frames(sample: OwnSample) -> FileFacts:
    sizes = set()
    for frame in sample.frames:
        try:
            sizes.add(LoadImage.read(frame).shape[:2])
        except UserError as error:
            return FileFacts(f"{frame.name}: {_reason(error)}")
    if len(sizes) > 1:
        return FileFacts("its frames are of several sizes")
    return FileFacts(None, _digest(sample.frames), sizes.pop()[::-1], frames=len(sample.frames))


def _reason(error: UserError) -> str:
    """What is wrong with a file, without its name."""
    said = one_line(error)
    inside = said.partition("(")[2].partition(")")[0] if "is truncated or no image" in said else ""
    if inside:
        return f"truncated or no image: {inside}"
    return "empty" if " is empty" in said else said[-160:]


def _sized(sample: OwnSample, fact: FileFacts) -> OwnSample:
    """The sample with its size, which must be the one that its annotations or its label map have."""
    from dataclasses import replace

    if sample.size is not None and sample.size != fact.size:
        turned = sample.size == fact.size[::-1] and fact.turned
        why = (
            "its EXIF turns it, and the annotations are of the unturned one" if turned else "they are of another image"
        )
        raise UserError(
            f"{printable(sample.path)} has {fact.size[0]} x {fact.size[1]} pixels, and its annotations say "
            f"{sample.size[0]} x "
            f"{sample.size[1]}: {why}: mend them, or store the image upright."
        )
    if sample.label_map is not None and (difference := sizes_differ(sample, fact.size)):
        raise UserError(f"{difference}: they do not belong together.")
    return replace(sample, size=fact.size)


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an image, turned as its EXIF says, by its header; None where it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # PIL's decoders raise whatever a broken file makes them stumble over
        return None
    return (height, width) if turned else (width, height)
