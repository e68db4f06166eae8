"""Files below a folder that is not trusted: hidden ones are passed over, links that leave are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vpeft.errors import UserError, printable

IMAGES = frozenset((".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".avif"))
VIDEOS = frozenset((".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv"))
#: What systems and tools leave behind.
REMAINS = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir"))
#: Folders below a class or a part are followed as deep as this.
DEEPEST = 12


def folder_entries(folder: Path, root: Path) -> tuple[list[Path], list[Path]]:
    """Folders and files in a folder, sorted by name; hidden ones are passed over.

    Args:
        folder: The folder.
        root: Resolved folder of the data, that no link may lead out of.

    Raises:
        UserError: The folder cannot be read, a link leads out of ``root`` or nowhere, or a folder has the name of an
            image.
    """
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise UserError(f"{printable(folder)} cannot be read ({error.strerror or error}).") from error
    folders, files = [], []
    for name in names:
        path = folder / name
        if name.startswith(".") or name.lower() in REMAINS:
            continue
        if path.is_symlink():
            _check_link(path, root)
        if not path.is_dir():
            files.append(path)
            continue
        if path.suffix.lower() in IMAGES | VIDEOS:
            raise UserError(f"{printable(path)} is a folder, and its name is that of an image or a video: rename it.")
        folders.append(path)
    return folders, files


def _check_link(path: Path, root: Path) -> None:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{printable(path)} is a link that leads nowhere: delete it, or copy the file there."
        ) from error
    if not target.is_relative_to(root):
        raise UserError(
            f"{printable(path)} is a link that leads out of the folder, to {printable(target)}: copy it, or give the "
            "folder where the files are."
        )
    if target.is_dir() and path.parent.resolve().is_relative_to(target):
        raise UserError(f"{printable(path)} is a link to a folder that it lies in: delete it.")


def files_below(folder: Path, root: Path, depth: int = 0) -> Iterator[Path]:
    """Every file below a folder, folder by folder, sorted.

    Raises:
        UserError: As :func:`entries`, or the folders are too deep.
    """
    if depth > DEEPEST:
        raise UserError(f"{printable(folder)}: folders inside folders, {DEEPEST} deep: give the one with the data.")
    folders, files = folder_entries(folder, root)
    yield from files
    for one in folders:
        yield from files_below(one, root, depth + 1)


def is_image(path: Path) -> bool:
    """Whether a file has the name of an image."""
    return path.suffix.lower() in IMAGES


def is_video(path: Path) -> bool:
    """Whether a file has the name of a video."""
    return path.suffix.lower() in VIDEOS


def need_utf8(path: Path) -> Path:
    """Refuse a name that is no Unicode: neither a list nor a config could hold it.

    Raises:
        UserError: It is none, or holds a line break.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{printable(path)}: the name is no Unicode: rename it.") from error
    if any(sign in str(path) for sign in "\n\r"):
        raise UserError(f"{printable(path)}: the name holds a line break: rename it.")
    return path
