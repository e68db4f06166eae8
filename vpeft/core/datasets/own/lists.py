"""Lists of a user's data, written for the data sets of the packages; the data themselves stay where they are."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vpeft.core.datasets.own.coco_file import file_of
from vpeft.core.datasets.own.found import TEST, TRAIN, VAL, OwnData, OwnSample
from vpeft.files import write_atomically

#: Digits of the hash that a folder of lists is called by.
_DIGITS = 12


def write_lists(data: OwnData, folder: Path) -> dict[str, Path]:
    """Write a list for each part, below a folder that bears the hash of all lists: other data never overwrite them.

    Args:
        data: Divided data, whose files were looked at.
        folder: Where folders of lists stand.

    Returns:
        The files by part; a part without samples has none. Paths in them are below ``data.root``.
    """
    texts = {part: _text(data, samples) for part in (TRAIN, VAL, TEST) if (samples := data.part(part))}
    digest = hashlib.sha256("\0".join((str(data.root), *texts.values())).encode()).hexdigest()[:_DIGITS]
    files = {part: folder / digest / f"{part}.json" for part in texts}
    for part, text in texts.items():
        if not files[part].is_file() or files[part].read_bytes() != text.encode():
            write_atomically(files[part], text.encode())
    return files


def _text(data: OwnData, samples: Sequence[OwnSample]) -> str:
    if data.family in ("detection", "instances"):
        return json.dumps(file_of(samples, data.classes, data.root))
    rows = [_row(data, sample) for sample in samples]
    return json.dumps({"metainfo": {"classes": list(data.classes)}, "data_list": rows}, ensure_ascii=False)


def _row(data: OwnData, sample: OwnSample) -> dict[str, Any]:
    """A sample as mmengine's form of lists has it."""
    path = os.path.relpath(sample.path, data.root)
    if data.family == "segmentation":
        return {"img_path": path, "seg_map_path": os.path.relpath(sample.label_map, data.root)}
    if data.family == "video":
        frames = [os.path.relpath(frame, sample.path) for frame in sample.frames]
        return {"filename": path, "label": sample.labels[0], **({"frames": frames} if frames else {})}
    return {"img_path": path, "gt_label": list(sample.labels) if data.multi_label else sample.labels[0]}
