"""What is to be predicted: files, folders, patterns, the frames of a video, arrays."""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from vpeft.core.datasets.load.image import colours_of
from vpeft.core.datasets.own.found import natural
from vpeft.errors import UserError, one_line

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv")


class Given(NamedTuple):
    """One image or clip.

    Attributes:
        name: What it is called: the file, ``clip.mp4#120`` for a frame, ``array 3``.
        path: The file, None for frames and arrays.
        image: uint8 ``(H, W, 3)`` in BGR order, of frames and arrays.
        fault: Why there is nothing to predict.
        frames: Of a clip that is a folder of frames, the files in order.
    """

    name: str
    path: str | None = None
    image: np.ndarray | None = None
    fault: str | None = None
    frames: tuple[str, ...] = ()


def given(inputs: Any, clips: bool = False, every: int = 1, frames: bool = False) -> Iterator[Given]:
    """Images or clips, one after another, in the order given; those of a folder sorted by name.

    Args:
        inputs: A path or an array, or a list of them: files, folders (looked through to their ends), patterns such as
            ``photos/*.jpg``; arrays ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)`` in RGB order, or PIL's images.
        clips: Whether videos are samples themselves; otherwise their frames are.
        every: Of the frames of a video each so-manieth.
        frames: Whether clips are folders of frames: every folder that holds images is one.

    Raises:
        UserError: A folder or a pattern holds nothing of the kind, or something is neither a path nor an array.
    """
    single = isinstance(inputs, (str, os.PathLike, np.ndarray, Image.Image))
    for place, one in enumerate([inputs] if single else inputs):
        if isinstance(one, (np.ndarray, Image.Image)):
            yield _array(one, f"array {place}", clips)
        elif isinstance(one, (str, os.PathLike)) and frames:
            yield from _folders_of_frames(os.fspath(one))
        elif isinstance(one, (str, os.PathLike)):
            for path in _files(os.fspath(one), clips):
                yield from _frames(path, every) if _is_video(path) and not clips else [Given(path, path)]
        else:
            raise UserError(f"input {place} is a {type(one).__name__}: give paths, arrays (H, W, 3) in RGB, or PIL's.")


def _files(path: str, clips: bool) -> Iterable[str]:
    if os.path.isdir(path):
        wanted = VIDEOS if clips else (*IMAGES, *VIDEOS)
        found = [
            os.path.join(folder, name)
            for folder, _, names in os.walk(path)
            for name in names
            if name.lower().endswith(wanted) and not name.startswith(".")
        ]
        if not found:
            raise UserError(f"{path} holds no {'video' if clips else 'image'} (endings: {', '.join(wanted)}).")
        return sorted(found)
    if not os.path.lexists(path) and glob.has_magic(path):
        found = sorted(name for name in glob.glob(path, recursive=True) if os.path.isfile(name))
        if not found:
            raise UserError(f"{path} fits no file, seen from {Path.cwd()}.")
        return found
    return [path]


def _folders_of_frames(path: str) -> Iterator[Given]:
    if not os.path.isdir(path):
        yield Given(path, fault=f"{path} is no folder: the clips of this run are folders of frames.")
        return
    found = []
    for folder, _, names in os.walk(path):
        images = [name for name in names if name.lower().endswith(IMAGES) and not name.startswith(".")]
        if images:
            files = tuple(os.path.join(folder, name) for name in sorted(images, key=natural))
            found.append(Given(folder, folder, frames=files))
    if not found:
        raise UserError(f"{path} holds no folder of frames (endings: {', '.join(IMAGES)}).")
    yield from sorted(found, key=lambda one: natural(one.name))


def _is_video(path: str) -> bool:
    return path.lower().endswith(VIDEOS)


def _array(image: np.ndarray | Image.Image, name: str, clips: bool) -> Given:
    """An array as the loader gives a file of the same pixels."""
    if clips:
        return Given(name, fault=f"{name} is an image, and this run is of clips: give video files.")
    if isinstance(image, np.ndarray):
        try:
            image = Image.fromarray(np.ascontiguousarray(image))
        except (TypeError, ValueError):
            kind = f"{image.dtype} {image.shape}"
            return Given(name, fault=f"{name} is {kind}: give uint8 (H, W), (H, W, 3) or (H, W, 4), in RGB order.")
    else:
        with contextlib.suppress(Exception):  # a broken EXIF block states no orientation
            image = ImageOps.exif_transpose(image)
    try:
        return Given(name, image=np.ascontiguousarray(colours_of(image, name)[..., ::-1]))
    except UserError as error:
        return Given(name, fault=str(error))


def _frames(path: str, every: int) -> Iterator[Given]:
    """The frames of a video, decoded one after another."""
    import av

    place = -1
    try:
        with av.open(path, metadata_errors="ignore") as container:
            for place, frame in enumerate(container.decode(video=0)):
                if place % every == 0:
                    yield Given(f"{path}#{place}", image=np.ascontiguousarray(frame.to_ndarray(format="bgr24")))
    except (OSError, ValueError, IndexError, av.error.FFmpegError) as error:
        fault = f"{path} cannot be decoded from frame {place + 1} on: {one_line(error, 200)}"
        yield Given(f"{path}#{place + 1}", fault=fault)


class FileNames:
    """Names of files to be written for inputs, each stem unlike that of any other, whatever the case of its letters."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, name: str, ending: str | None = None) -> str:
        """A file's name.

        Args:
            name: Of :class:`Given`; a frame ``clip.mp4#12`` becomes ``clip_000012``, with the ending ``.png``.
            ending: The ending; the input's own when None.
        """
        file, _, frame = name.rpartition("#")
        is_frame = frame.isdecimal() and _is_video(file)
        path = Path(file if is_frame else name)
        stem = f"{path.stem}_{int(frame):06d}" if is_frame else path.stem or "image"
        ending = ending or (".png" if is_frame else path.suffix)
        free = next(
            one
            for number in range(1, len(self._taken) + 2)
            if (one := stem if number == 1 else f"{stem}-{number}").lower() not in self._taken
        )
        self._taken.add(free.lower())
        return f"{free}{ending}"
