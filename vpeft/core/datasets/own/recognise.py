"""What a user's data are, found out by looking at the names and the first bytes of files."""

from __future__ import annotations

import os
from pathlib import Path

from vpeft.core.datasets.own.class_folders import read_class_folders
from vpeft.core.datasets.own.coco_file import coco_data, coco_files, is_coco
from vpeft.core.datasets.own.found import EXPECTED, FAMILIES, OwnData, some
from vpeft.core.datasets.own.map_folders import is_maps, map_folders
from vpeft.core.datasets.own.table import csv_table
from vpeft.core.datasets.own.walk import folder_entries
from vpeft.core.datasets.own.yolo import NAMES, is_yolo, yolo_folder
from vpeft.errors import UserError, printable
from vpeft.registry import nearest

_TABLES = (".csv", ".tsv")
_CONFIGS = (".py", ".json", ".yaml", ".yml")
#: Families that each kind can be read as.
_FAMILIES = {
    "folders of classes": ("classification", "video"),
    "CSV": ("classification", "video"),
    "COCO file": ("detection", "instances"),
    "YOLO folder": ("detection", "instances"),
    "images and label maps": ("segmentation",),
}


def is_own_data(path: str | os.PathLike[str]) -> bool:
    """Whether a path is meant as data and not as a config: a folder, a COCO file, a YOLO's ``data.yaml``, or anything
    else without the ending of a config.
    """
    path = Path(path)
    return path.is_dir() or path.suffix.lower() not in _CONFIGS or path.name in NAMES or is_coco(path)


def recognise_data(path: str | os.PathLike[str], family: str | None = None) -> OwnData:
    """Find out what data are, and read what they say of their samples; images are not opened.

    Args:
        path: A folder, a CSV, a COCO file or a YOLO's ``data.yaml``.
        family: One of :data:`~vpeft.core.datasets.own.found.FAMILIES`, where the data can be read as several.

    Raises:
        UserError: They are none of these, of another family, mixed or contradict themselves; one line says what was
            seen and what is expected.
    """
    if family is not None and family not in FAMILIES:
        raise UserError(f"--family {family}: {nearest(family, FAMILIES)}")
    given = Path(path).expanduser()
    if not given.exists():
        raise UserError(f"{printable(given)} does not exist, seen from {Path.cwd()}; {EXPECTED}.")
    kind, data = _folder(given.resolve(), family) if given.is_dir() else _file(given.resolve(), family)
    if not data.samples:
        raise UserError(f"{printable(given)}: {kind} without a sample; {EXPECTED}.")
    return data


def _file(file: Path, family: str | None) -> tuple[str, OwnData]:
    if file.suffix.lower() in _TABLES:
        _need("CSV", family, file)
        return "CSV", csv_table(file, family)
    if file.suffix.lower() == ".json" and is_coco(file):
        _need("COCO file", family, file)
        return "COCO file", coco_data([file], file.parent, family)
    if file.name in NAMES:
        return _folder(file.parent, family)
    raise UserError(f"{printable(file)} is no CSV and no COCO file; {EXPECTED}.")


def _folder(root: Path, family: str | None) -> tuple[str, OwnData]:
    tables = [file for file in folder_entries(root, root)[1] if file.suffix.lower() in _TABLES]
    annotated = coco_files(root)
    seen = {
        "COCO file": bool(annotated),
        "YOLO folder": is_yolo(root),
        "images and label maps": is_maps(root),
        "CSV": bool(tables),
    }
    kinds = [kind for kind, is_there in seen.items() if is_there and (family is None or family in _FAMILIES[kind])]
    if len(kinds) > 1 and "CSV" in kinds:
        kinds.remove("CSV")  # a table of notes beside annotations
    if len(kinds) > 1:
        ways = " or ".join(f"--family {'/'.join(_FAMILIES[kind])} ({kind})" for kind in kinds)
        raise UserError(
            f"{printable(root)} can be read as {' and as '.join(kinds)}: say which by {ways}, or give the file."
        )
    kind = kinds[0] if kinds else next((kind for kind, is_there in seen.items() if is_there), "folders of classes")
    _need(kind, family, root)
    if kind == "COCO file":
        return kind, coco_data(annotated, root, family)
    if kind == "CSV":
        return kind, _table(tables, root, family)
    readers = {"YOLO folder": lambda: yolo_folder(root, family), "images and label maps": lambda: map_folders(root)}
    return kind, readers.get(kind, lambda: read_class_folders(root, family))()


def _table(tables: list[Path], root: Path, family: str | None) -> OwnData:
    """The one CSV of a folder, unless the folder is one of class folders beside which it stands."""
    try:
        data = read_class_folders(root, family)
    except UserError:
        if len(tables) > 1:
            raise UserError(
                f"{printable(root)} holds several CSV files ({some([t.name for t in tables])}): give the one that is "
                "meant."
            ) from None
        return csv_table(tables[0], family)
    return data.with_samples(
        data.samples, [f"{some([t.name for t in tables])} is passed over: the class folders say the classes"]
    )


def _need(kind: str, family: str | None, path: Path) -> None:
    if family is not None and family not in _FAMILIES[kind]:
        raise UserError(
            f"{printable(path)} is {kind}, which is of the family {' or '.join(_FAMILIES[kind])}, and --family "
            f"{family} is "
            "asked for."
        )
