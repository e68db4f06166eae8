"""Which images a data set reads: by file, or by content where they are held in memory."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vpeft.errors import UserError

#: Where a sample says which file it is read from: images, clips, folders of frames.
FILES = ("img_path", "filename", "frame_dir")
#: Share of copies under other names that is a fault: some public data sets hold a few by their own mistake.
COPIES = 0.01
#: Data sets that hold others.
_HELD = ("dataset", "datasets")


@dataclass
class Images:
    """What a data set reads.

    Attributes:
        keys: What each image is known by, and a name for messages. A file is known by its place on the disk, whatever
            path, link or spelling leads there; an image in memory by its bytes.
        sizes: Files by their length in bytes.
    """

    keys: dict[Hashable, str] = field(default_factory=dict)
    sizes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def __len__(self) -> int:
        return len(self.keys)


def images_of(dataset: Any) -> Images:
    """The images of a data set, those alone that it gives: subsets, repetitions and data sets of others included.

    Args:
        dataset: Of mmengine's kind, or torch's ``Subset`` and ``ConcatDataset`` of such.

    Raises:
        UserError: A sample names no file and holds no image.
    """
    found = Images()
    for info in samples_of(dataset):
        _add(found, info, dataset)
    return found


def _add(found: Images, info: Mapping[str, Any], dataset: Any) -> None:
    path = next((info[key] for key in FILES if info.get(key)), None)
    if path is None:
        if not isinstance(info.get("img"), np.ndarray):
            raise UserError(
                f"samples of {type(dataset).__name__} have no {' and no '.join(FILES)}, and no img: "
                "give them one, so that it can be seen which images are read."
            )
        image = np.ascontiguousarray(info["img"])
        digest = hashlib.blake2b(image.tobytes(), digest_size=16, person=b"image").digest()
        found.keys[image.shape, digest] = "an image in memory"
        return
    try:
        place = os.stat(path)
        key = (place.st_dev, place.st_ino)
        if key not in found.keys and os.path.isfile(path):
            found.sizes[place.st_size].append(str(path))
    except OSError:  # whoever reads it says so
        key = str(Path(path).resolve())
    found.keys[key] = str(path)


def samples_of(dataset: Any) -> Iterator[Mapping[str, Any]]:
    """What a data set says of each sample that it gives, in its order: subsets and data sets of others included.

    Raises:
        UserError: It has no ``get_data_info(index)``.
    """
    if (indices := getattr(dataset, "indices", None)) is not None and not hasattr(dataset, "get_data_info"):
        yield from _chosen(dataset.dataset, indices)
        return
    if hasattr(dataset, "get_data_info"):
        yield from _chosen(dataset, range(len(dataset)))
        return
    held = next((getattr(dataset, name) for name in _HELD if hasattr(dataset, name)), None)
    if held is None:
        raise UserError(
            f"{type(dataset).__name__} has no get_data_info(index): give it one, so that it can be seen which images "
            "are read."
        )
    for one in held if isinstance(held, (list, tuple)) else [held]:
        yield from samples_of(one)


def _chosen(dataset: Any, indices: Iterable[int]) -> Iterator[Mapping[str, Any]]:
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    if not hasattr(dataset, "get_data_info"):
        wanted = set(indices)
        yield from (info for index, info in enumerate(samples_of(dataset)) if index in wanted)
        return
    yield from (dataset.get_data_info(int(index)) for index in indices)


def overlap_faults(datasets: Mapping[str, Any]) -> list[str]:
    """What two of a run's data sets have in common, in words; empty where all their images are different.

    Args:
        datasets: By what is done with them, such as ``training`` and ``test``; None for one that there is not.
    """
    found: dict[str, Images] = {}
    faults = []
    for use, dataset in datasets.items():
        if dataset is None:
            continue
        try:
            found[use] = images_of(dataset)
        except UserError as error:
            faults.append(f"which images are for {use} cannot be told: {error}")
    for (first, a), (second, b) in itertools.combinations(found.items(), 2):
        if same := images_in_both(a, b):
            faults.append(f"{len(same)} of {len(b)} images are for {first} and for {second}, such as {same[0]}")
        elif len(same := copied_images(a, b)) > COPIES * len(b):
            faults.append(f"{len(same)} of {len(b)} images for {second} are copies of ones for {first}: {same[0]}")
    return faults


def images_in_both(a: Images, b: Images) -> list[str]:
    """Names of the images of ``b`` that ``a`` reads too."""
    return [name for key, name in b.keys.items() if key in a.keys]


def copied_images(a: Images, b: Images) -> list[str]:
    """Files of ``b`` that are no file of ``a``, and have the same bytes as one; only files of one length are read."""
    same_place = set(images_in_both(a, b))
    found = []
    for size in a.sizes.keys() & b.sizes.keys():
        others = [path for path in b.sizes[size] if path not in same_place]
        if others:
            known = {_digest(path) for path in a.sizes[size]}
            found += [path for path in others if _digest(path) in known]
    return sorted(found)


def _digest(path: str) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
