"""Decoded images that the runs of a benchmark or of a search share (:mod:`vpeft.core.datasets.decoded`)."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine import Config

from vpeft.apis.config.origin import set_by_command
from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.hooks.data_store import DECODED
from vpeft.core.store import byte_count, has_room

#: What is kept where nothing is said.
SHARED_LIMIT = "20GB"
OFF = "off"


def store_asked(asked: str | bool | None, root: str | os.PathLike[str], one_machine: bool) -> tuple[str, str]:
    """What the runs of a benchmark or of a search share, and why.

    Args:
        asked: A size, ``off``, or None, which is :data:`SHARED_LIMIT` where all runs are of one machine whose disk has
            twice the room.
        root: Folder of the results; the store lies in it.
        one_machine: Whether all runs are of this machine.

    Returns:
        The size, or ``off``; and a line about it.

    Raises:
        UserError: It is no size.
    """
    folder = Path(root) / DECODED
    if asked in (OFF, False):
        return OFF, "decoded anew in every run"
    if asked is not None:
        byte_count(asked)
        return str(asked), f"decoded once, up to {asked} in {folder}"
    if not one_machine:
        return OFF, "decoded anew in every run: the runs may be of several machines, which cannot share a store"
    if not has_room(folder, SHARED_LIMIT):
        return OFF, f"decoded anew in every run: the disk of {root} has no room for twice {SHARED_LIMIT}"
    return SHARED_LIMIT, f"decoded once, up to {SHARED_LIMIT} in {folder}"


def store_of_job(store: str | None, asked: str | bool | None, suite: str | None) -> str | None:
    """What of :func:`store_asked` is for a run: by default lists of files have one, images in memory need none."""
    reader = ListedImages.readers.get(suite)
    return store if asked is not None or (reader is not None and not reader.in_memory) else None


def share_store(cfg: Config, root: str | os.PathLike[str]) -> Config:
    """Let a run with a store share it with all runs below ``root``; the config is changed in place."""
    if (cfg.get("data_store") or {}).get("limit") is not None and not cfg.data_store.get("folder"):
        cfg.merge_from_dict({"data_store.folder": str(Path(root).absolute() / DECODED), "data_store.shared": True})
    return cfg


def set_limit(cfg: Config, store: str | bool) -> None:
    """Put a size, or ``off``, into a config."""
    set_by_command(cfg, {"data_store.limit": None if store in (OFF, False) else store}, f"--data-store {store}")
