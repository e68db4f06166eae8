"""A CSV of paths and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from vpeft.core.datasets.load.lines import check_name, cut
from vpeft.core.datasets.own.found import PARTS, TRAIN, OwnData, OwnSample, natural, need_classes, some
from vpeft.core.datasets.own.walk import is_image, is_video
from vpeft.errors import UserError, printable
from vpeft.files import read_text

SEPARATORS = ",;\t|"
#: Names of columns, in small letters.
PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "image",
    "img",
    "image_path",
    "img_path",
    "filepath",
    "image_id",
    "video",
)
LABELS = ("label", "labels", "class", "classes", "category", "target", "tags", "class_name", "label_name")
SPLITS = ("split", "part", "set", "subset", "partition")
#: Between several labels in one cell.
BETWEEN = "|;"


def csv_table(file: Path, family: str | None = None) -> OwnData:
    """Read a CSV: a path and a label, several labels in one cell (``cat|dog``), or a column of 0 and 1 for each class.

    Separators may be commas, semicolons, tabs or bars; the first row names the columns where it names no file. A
    column ``split`` says the parts. Paths are relative to the file's folder.

    Raises:
        UserError: It is no such table, names files that do not exist, or has too few classes; the line says where.
    """
    rows, separator = _rows(file)
    where = f"CSV {printable(file)}"
    header, rows = _header(rows, file.parent)
    path_column, split_column, label_columns = _columns(header, len(rows[0][1]) if rows else 0, where)
    if not rows:
        raise UserError(f"{where} names no images: write a line `path{separator}label` for each.")
    for number, row in rows:
        if len(row) != len(rows[0][1]) or (header and len(row) != len(header)):
            expected = len(header) if header else len(rows[0][1])
            raise UserError(
                f"{where}:{number}: {len(row)} cells where {expected} are expected (separator {separator!r})."
            )
    paths = [_path(file.parent, row[path_column], f"{where}:{number}") for number, row in rows]
    _need_files(paths, [row[path_column] for _, row in rows], where)
    named, classes, multi = _labels(header, label_columns, rows, separator, where)
    parts = [_part(row[split_column], f"{where}:{n}") if split_column is not None else None for n, row in rows]
    if any(part is not None for part in parts) and TRAIN not in parts:
        raise UserError(f"{where}: no row is of the part {TRAIN}: there is nothing to learn from.")
    kinds = {"video" if is_video(path) else "classification" for path in paths}
    if len(kinds) > 1 or (family is not None and {family} != kinds):
        raise UserError(
            f"{where} names files of {' and '.join(sorted(kinds))}{f', not of {family}' if family else ''}."
        )
    if multi and kinds == {"video"}:
        raise UserError(f"{where}: several labels a clip: clips have one class each.")
    _need_once(paths, where)
    samples = [OwnSample(*one) for one in zip(paths, named, parts, strict=True)]
    return OwnData("CSV of paths and labels", kinds.pop(), _common(file.parent, paths), classes, tuple(samples), multi)


def _rows(file: Path) -> tuple[list[tuple[int, list[str]]], str]:
    """Rows that are not blank, each with its line, and the separator."""
    text = read_text(file, "CSV")
    lines = [line for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    separator = max(SEPARATORS, key=first.count) if any(s in first for s in SEPARATORS) else ","
    reader = csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise UserError(f"CSV {printable(file)}:{reader.line_num}: {error}.") from error
    if rows and len(rows[0][1]) < 2:
        raise UserError(
            f"CSV {printable(file)}: the first row {cut(first)} is one cell: write `path,label` (separators: comma, "
            "semicolon, tab, bar)."
        )
    return rows, separator


def _header(rows: list[tuple[int, list[str]]], folder: Path) -> tuple[list[str] | None, list[tuple[int, list[str]]]]:
    """The names of the columns, where the first row is them: no cell of it names a file."""
    if not rows or any(is_image(Path(cell)) or is_video(Path(cell)) for cell in rows[0][1]):
        return None, rows
    return rows[0][1], rows[1:]


def _columns(header: Sequence[str] | None, width: int, where: str) -> tuple[int, int | None, list[int]]:
    """Places of the path, of the part and of the labels."""
    if header is None:
        return 0, None, list(range(1, width))
    names = [name.lower() for name in header]
    path = next((names.index(name) for name in PATHS if name in names), None)
    if path is None:
        raise UserError(
            f"{where} has the columns {some(header, 8)}, and none is called path, file or image: name one so."
        )
    split = next((names.index(name) for name in SPLITS if name in names), None)
    rest = [i for i in range(len(names)) if i not in (path, split)]
    named = [i for i in rest if names[i] in LABELS]
    if len(named) == 1:
        rest = named
    if not rest:
        raise UserError(f"{where} has the columns {some(header, 8)}, and none of labels: add one called label.")
    return path, split, rest


def _path(folder: Path, text: str, where: str) -> Path:
    check_name(text.replace("\\", "/"), where)
    return Path(os.path.normpath(folder / text.replace("\\", "/")))


def _need_files(paths: Sequence[Path], texts: Sequence[str], where: str) -> None:
    strange = [text for path, text in zip(paths, texts, strict=True) if not is_image(path) and not is_video(path)]
    if strange:
        raise UserError(
            f"{where}: {len(strange)} of {len(texts)} paths are not of images or videos, first {cut(strange[0])}."
        )
    missing = [text for path, text in zip(paths, texts, strict=True) if not path.is_file()]
    if missing:
        raise UserError(
            f"{where}: {len(missing)} of {len(texts)} files do not exist, first {cut(missing[0])}: paths are seen "
            "from the "
            "folder of the CSV."
        )


def _need_once(paths: Sequence[Path], where: str) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path in seen:
            raise UserError(f"{where} names {printable(path)} twice: give it one row.")
        seen.add(path)


def _labels(
    header: Sequence[str] | None,
    columns: Sequence[int],
    rows: Sequence[tuple[int, list[str]]],
    separator: str,
    where: str,
) -> tuple[list[tuple[int, ...]], tuple[str, ...], bool]:
    """Labels of each row, names of the classes, and whether an image may have several."""
    cells = [[row[i] for i in columns] for _, row in rows]
    if (
        header is not None
        and len(columns) > 1
        and all(cell in ("0", "1", "0.0", "1.0") for row in cells for cell in row)
    ):
        classes = need_classes([header[i] for i in columns], where)
        return [tuple(i for i, cell in enumerate(row) if float(cell)) for row in cells], classes, True
    between = [sign for sign in BETWEEN if sign != separator]
    names = [[name for cell in row for name in _split(cell, between)] for row in cells]
    multi = any(len(one) > 1 for one in names)
    bare = next((number for (number, _), one in zip(rows, names, strict=True) if not one), None)
    if bare is not None and not multi:
        raise UserError(f"{where}:{bare}: no label: give each image one, or leave it out.")
    classes = need_classes(sorted({name for one in names for name in one}, key=natural), where)
    places = {name: i for i, name in enumerate(classes)}
    return [tuple(sorted({places[name] for name in one})) for one in names], classes, multi


def _split(cell: str, between: Sequence[str]) -> list[str]:
    for sign in between[1:]:
        cell = cell.replace(sign, between[0])
    return [name.strip() for name in cell.split(between[0]) if name.strip()]


def _part(text: str, where: str) -> str:
    if text.lower() not in PARTS:
        raise UserError(f"{where}: the part {cut(text)} is none of train, val, test.")
    return PARTS[text.lower()]


def _common(folder: Path, paths: Sequence[Path]) -> Path:
    """The folder that all paths are below of."""
    return Path(os.path.commonpath([folder, *paths]))
