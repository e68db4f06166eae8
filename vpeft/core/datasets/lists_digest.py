"""What the lists of a data set hold, wherever they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.errors import UserError
from vpeft.registry import DATASETS


def lists_digest(datasets: Iterable[Mapping[str, Any]]) -> str | None:
    """Digest of the contents of the lists and annotation files that data sets name; None where none is found.

    Args:
        datasets: Configs of data sets, with ``data_root`` and ``ann_file``, or of a suite's; those inside others too.
    """
    found = {file.resolve() for dataset in datasets for file in _files(dataset) if file.is_file()}
    if not found:
        return None
    # by content alone: the same lists in another folder are the same data
    parts = sorted(hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest() for file in found)
    return hashlib.blake2b("".join(parts).encode(), digest_size=16).hexdigest()


def _files(dataset: Mapping[str, Any]) -> Iterator[Path]:
    for inner in (dataset.get("dataset"), *(dataset.get("datasets") or ())):
        if isinstance(inner, Mapping):
            yield from _files(inner)
    if isinstance(name := dataset.get("ann_file"), str) and name:
        yield Path(dataset.get("data_root") or ".", name)
    cls = DATASETS.get(dataset["type"]) if isinstance(dataset.get("type"), str) else dataset.get("type")
    if isinstance(cls, type) and issubclass(cls, ListedImages):
        try:
            listed = cls(
                **{key: dataset[key] for key in ("data_root", "task", "split") if key in dataset}, lazy_init=True
            )
            yield from listed.files(listed.folder())
        except (UserError, TypeError):  # the run says what is missing
            return
