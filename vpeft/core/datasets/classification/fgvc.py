"""The five fine-grained data sets (FGVC), in the layout in which their splits are handed on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.load.lines import check_name, cut
from vpeft.core.datasets.tasks import Splits, register_suite
from vpeft.errors import UserError
from vpeft.files import need_file, read_json
from vpeft.registry import DATASETS

# The usual protocol trains on `train` alone in the end, too.
register_suite(
    "fgvc",
    Splits("train", "val", "train"),
    {
        None: [
            ("cub200", 200, 5_794, True, ("CUB_200_2011", "cub"), (5_394, 600)),
            ("nabirds", 555, 24_633, True, (), (21_536, 2_393)),
            ("flowers102", 102, 6_149, True, ("OxfordFlower", "OxfordFlowers", "oxford_flowers102"), (1_020, 1_020)),
            ("stanford_dogs", 120, 8_580, True, ("Stanford-dogs", "dogs"), (10_800, 1_200)),
            ("stanford_cars", 196, 8_041, True, ("Stanford-cars", "cars"), (7_329, 815)),
        ]
    },
    title="FGVC",
)

#: Where images lie below a task's folder, seen from the paths in its lists.
PLACES = ("", "images", "Images", "jpg")


@DATASETS.register_module()
class FGVC(ListedImages):
    """One task of FGVC (:class:`~vpeft.core.datasets.classification.listed.ListedImages`).

    The layout, a list being one JSON object of a class number by path; images stand at the path or below
    ``images/``, ``Images/`` or ``jpg/``::

        <data_root>/<task>/{train,val,test}.json

    The numbers are as the data sets count, from 1 or with gaps: class i is the i-th smallest in ``train.json``.
    """

    suite, title, suffix = "fgvc", "FGVC", ".json"

    def read(self, file: Path) -> Iterator[tuple[str, str, int]]:
        """The list's entries."""
        entries, classes = _load(file), self._classes(file.parent)
        place = _place(file.parent, next(iter(entries), None))
        for path, number in entries.items():
            if number not in classes:
                raise UserError(f"{file}: {path!r} is of class {number}, which train.json has no image of.")
            yield str(file), str(place / path), classes[number]

    def _classes(self, folder: Path) -> dict[int, int]:
        file = folder / "train.json"
        need_file(file, f"task {self.task.name}: list", "unpack it again, it says what the classes are")
        numbers = sorted(set(_load(file).values()))
        if len(numbers) != self.task.num_classes:
            raise UserError(
                f"{file} has {len(numbers)} classes, task {self.task.name} {self.task.num_classes}: is it of this task?"
            )
        return {number: index for index, number in enumerate(numbers)}


def _load(file: Path) -> dict[str, int]:
    entries = read_json(file, "list")
    if not isinstance(entries, dict):
        raise UserError(f"{file} holds no class numbers by path.")
    for path, number in entries.items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise UserError(f"{file}: {cut(path)} has {cut(number)} for a class number.")
        check_name(path, str(file))
    return entries


def _place(folder: Path, first: str | None) -> Path:
    """Below ``folder``, where the images stand; where the first one is nowhere, its loading will say so."""
    return next((Path(place) for place in PLACES if first and os.path.isfile(folder / place / first)), Path())
