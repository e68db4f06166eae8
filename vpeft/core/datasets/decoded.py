"""Images decoded and resized once: what a pipeline does before anything is drawn at random, kept in a store.

The record of an image is found by the contents of its file, not by its name or its time: a picture that was changed is
another picture. With them go the transforms with their settings, and all that decides their pixels: libraries, codecs,
the instructions that OpenCV chooses by the processor. So what is read from the store has the bits of what would be
decoded, and what comes behind, drawn at random or not, sees no difference.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

from vpeft.core.datasets.load import image as load_image
from vpeft.core.store import Store
from vpeft.errors import UserError

#: What reads a file, and what may follow: it draws nothing. By full names: a subclass may do otherwise.
LOADERS = ("vpeft.core.datasets.load.image.LoadImage", "mmcv.transforms.loading.LoadImageFromFile")
SIZING = (
    "mmcv.transforms.processing.Resize",
    "mmcv.transforms.processing.CenterCrop",
    "mmpretrain.datasets.transforms.processing.ResizeEdge",
)
#: What sizing changes beside the image; a sample that has it goes past the store.
_BESIDE = frozenset(("gt_bboxes", "gt_seg_map", "gt_keypoints"))
#: Settings of transforms with which the file's contents do not say everything, or the result is no byte a channel.
_ELSEWHERE = ("file_client_args", "backend_args", "to_float32", "auto_pad")
#: Images whose headers are looked at, to know how large they are once decoded.
_LOOKED_AT = 16
#: Of the machine's memory, what whole images may take: beyond it a disk has to give ten times the bytes of the files.
_SHARE_OF_MEMORY = 0.5
#: Length of a record's header, and the sum of all that follows the two.
_FRONT = struct.Struct("<II")


class StoredHead:
    """The first transforms of a pipeline as one, whose result is kept.

    Args:
        transforms: The transforms.
        folder: Of the store.
        limit: Of the store, in bytes.
    """

    def __init__(self, transforms: Sequence[Callable[[dict], dict]], folder: str, limit: int) -> None:
        self.transforms, self.folder, self.limit = list(transforms), folder, limit
        self.sizes = any(_name(one) in SIZING for one in transforms)

    @functools.cached_property
    def identity(self) -> bytes:
        """What decides the pixels beside the file."""
        steps = [(_name(one), sorted(vars(one).items())) for one in self.transforms]
        owners = sorted({name.partition(".")[0] for name, _ in steps})
        versions = [(owner, getattr(sys.modules[owner], "__version__", None)) for owner in owners]
        return hashlib.sha256(repr((steps, versions, _libraries())).encode()).digest()

    def key(self, contents: bytes) -> bytes:
        """Under which the result of a file is kept."""
        return hashlib.sha256(self.identity + hashlib.sha256(contents).digest()).digest()

    def __call__(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """As the transforms would, one after the other."""
        is_plain = "img" in results or (self.sizes and not _BESIDE.isdisjoint(results))
        store = None if is_plain else self.store()
        contents = None if store is None else _contents(results.get("img_path"))
        if contents is None:
            return self.made(results)
        key = self.key(contents)
        with store.reading([key]) as (record,):
            found = None if record is None else sample_of(record)
        if found is not None:
            results.update(found)
            return results
        before = dict(results)
        results = self.made(results)
        if results is not None and not store.full:
            new = {name: value for name, value in results.items() if name not in before or value is not before[name]}
            # Read once more, so that what was decoded is what the key is of.
            if (record := record_of(new)) is not None and _contents(results["img_path"]) == contents:
                store.put({key: record})
        return results

    def made(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """The same without a store."""
        for transform in self.transforms:
            results = transform(results)
            if results is None:
                return None
        return results

    def store(self) -> Store | None:
        """The store as this process has opened it; None where it cannot any more."""
        try:
            return open_store(self.folder, self.limit, look=False)
        except UserError:
            return None


def keep_decoded(data: Dataset, folder: str | os.PathLike[str], limit: int, say: Callable[[str], None]) -> None:
    """Let a data set, and those inside it, read decoded images from a store, and put those into it that are not there.

    Args:
        data: A data set with a ``pipeline``, or one around such; changed in place.
        folder: Of the store.
        limit: Its bytes.
        say: Is told what is decoded anew each time, and why.

    Raises:
        UserError: The store cannot be opened.
    """
    store = open_store(folder, limit)
    for one in _inner(data):
        transforms = getattr(getattr(one, "pipeline", None), "transforms", None) or [None]
        if isinstance(transforms[0], StoredHead):
            continue
        count = head_length(transforms)
        head = StoredHead(transforms[:count], str(folder), limit)
        if (reason := _against(one, head, transforms[count:], store)) is None:
            transforms[:count] = [head]
        else:
            say(f"images of {type(one).__name__} ({len(one):,}) are decoded anew in every epoch: {reason}.")


def release(data: Dataset) -> None:
    """Let a data set, and those inside it, decode their images again."""
    for one in _inner(data):
        transforms = getattr(getattr(one, "pipeline", None), "transforms", None)
        if transforms and isinstance(transforms[0], StoredHead):
            transforms[:1] = transforms[0].transforms


def head_length(transforms: Sequence[Any]) -> int:
    """How many of the first transforms load an image and size it, and draw nothing; 0 where they do otherwise."""
    count = 0
    for transform in transforms:
        if _name(transform) not in (SIZING if count else LOADERS) or not _is_stated(transform):
            break
        count += 1
    return count


def _is_stated(transform: Any) -> bool:
    """Whether a transform's settings say all that it does."""
    settings = vars(transform)
    if any(settings.get(name) for name in _ELSEWHERE):
        return False
    is_known = settings.get("imdecode_backend", "cv2") in ("cv2", "pillow")
    return is_known and all(_is_literal(value, (dict,)) for value in settings.values())


def _against(data: Any, head: StoredHead, rest: Sequence[Any], store: Store) -> str | None:
    """Why a data set's images are not kept, None where they are."""
    if not head.transforms:
        first = "nothing" if rest[0] is None else type(rest[0]).__name__
        return f"its pipeline begins with {first}, of which it is not known that it gives the same each time"
    if not len(data) or not hasattr(data, "get_data_info"):
        return "it does not say where they lie"
    first = data.get_data_info(0)
    if "img" in first:
        return "they lie in memory"
    if not isinstance(first.get("img_path"), (str, os.PathLike)):
        return "it does not say where they lie"
    return None if head.sizes else _too_large(data, head, rest, store)


def _too_large(data: Any, head: StoredHead, rest: Sequence[Any], store: Store) -> str | None:
    """Why whole images do not fit, by some of them; None where they do."""
    count = len(data)
    sizes, absent = [], 0
    for index in range(0, count, max(1, count // _LOOKED_AT)):
        path = data.get_data_info(index).get("img_path")
        if (contents := _contents(path)) is not None and (size := _decoded_bytes(path)) is not None:
            sizes.append(size)
            absent += store.get([head.key(contents)]) == [None]
    if not sizes:
        return None
    whole = count * sum(sizes) / len(sizes)
    room, memory = store.limit - store.used, _SHARE_OF_MEMORY * _memory()
    behind = type(rest[0]).__name__ if rest else "nothing"
    only = f"{behind} comes right behind reading, so they would be kept whole, about {whole / 1e9:.3g} GB"
    if whole * absent / len(sizes) > room:
        return f"{only}, and the store has room for {max(room, 0) / 1e9:.3g} GB"
    return f"{only}, more than half of this machine's memory" if whole > memory else None


def _decoded_bytes(path: str | os.PathLike[str]) -> int | None:
    """Bytes of an image once decoded, by its header."""
    try:
        with Image.open(path, formats=load_image.FORMATS) as image:
            return 3 * image.width * image.height
    except Exception:  # PIL's readers raise whatever a broken file makes them stumble over; reading it will say so
        return None


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _inner(data: Any) -> Iterator[Any]:
    """The data sets that read files, inside those that repeat, join or draw from them."""
    inside = [*(getattr(data, "datasets", None) or ()), getattr(data, "dataset", None)]
    inside = [one for one in inside if isinstance(one, Dataset)]
    for one in inside:
        yield from _inner(one)
    if not inside:
        yield data


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _contents(path: Any) -> bytes | None:
    """The bytes of a file; None where it cannot be read, which reading the image will say better."""
    try:
        return Path(path).read_bytes() or None
    except (OSError, TypeError, ValueError):
        return None


@functools.cache
def _libraries() -> tuple[Any, ...]:
    """What decodes and resizes: versions, codecs, what OpenCV makes of the processor, and our own way to read."""
    import cv2
    import PIL
    from PIL import ImageFile, features

    codecs = [(name, features.version_codec(name)) for name in features.codecs if features.check_codec(name)]
    turbo = features.check_feature("libjpeg_turbo") and features.version_feature("libjpeg_turbo")
    processor = (cv2.getCPUFeaturesLine(), cv2.useOptimized(), cv2.ipp.useIPP())
    ours = hashlib.sha256(Path(load_image.__file__).read_bytes()).hexdigest()
    versions = [one.__version__ for one in (np, PIL, cv2)]
    return versions, codecs, turbo, ImageFile.LOAD_TRUNCATED_IMAGES, processor, ours


# Records ------------------------------------------------------------------------------------------------------------


def record_of(results: Mapping[str, Any]) -> bytes | None:
    """A record of what transforms have set in a sample: the pixels of ``img``, and short texts of the rest; None where
    the image has no byte a channel, or the rest is no number, text or tuple of such.
    """
    image = results.get("img")
    rest = {name: value for name, value in results.items() if name != "img"}
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or not _is_literal(rest, (dict,)):
        return None
    header = repr((image.shape, rest)).encode()
    body = header + image.tobytes()
    return _FRONT.pack(len(header), zlib.crc32(body)) + body


def sample_of(record: bytes | memoryview) -> dict[str, Any] | None:
    """What :func:`record_of` was given; None where the record is damaged."""
    if len(record) < _FRONT.size:
        return None
    length, stored = _FRONT.unpack_from(record)
    body = memoryview(record)[_FRONT.size :]
    if zlib.crc32(body) != stored:
        return None
    shape, rest = ast.literal_eval(bytes(body[:length]).decode())
    return {**rest, "img": np.frombuffer(body[length:], np.uint8).reshape(shape).copy()}


def _is_literal(value: Any, more: tuple[type, ...] = ()) -> bool:
    """Whether Python's text of a value gives it again, of the same types."""
    if isinstance(value, dict) and dict in more:
        return all(type(name) is str and _is_literal(inner, more) for name, inner in value.items())
    if type(value) in (tuple, list):
        return all(_is_literal(inner, more) for inner in value)
    return value is None or (type(value) in (bool, int, float, str) and value == value)


# Stores of this process ---------------------------------------------------------------------------------------------

_open: dict[str, Store] = {}


def open_store(folder: str | os.PathLike[str], limit: int, look: bool = True) -> Store:
    """The store of a folder, once a process; ``look`` as of :class:`~vpeft.core.store.Store`."""
    place = os.path.abspath(folder)
    if place in _open and _open[place].limit != limit:
        close_store(place)
    if place not in _open:
        _open[place] = Store(place, limit, look)
    return _open[place]


def close_store(folder: str | os.PathLike[str]) -> None:
    """Let go of a folder's store, if it is open in this process."""
    if (store := _open.pop(os.path.abspath(folder), None)) is not None:
        store.close()


def _close_all() -> None:
    for folder in list(_open):
        close_store(folder)


# A forked worker must not use what its parent has opened, and LMDB opens a file once a process.
os.register_at_fork(after_in_child=_close_all)
