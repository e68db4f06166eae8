"""Looking at data: what of a suite is there, and what the embedded tasks look like."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.load.image import LoadImage
from vpeft.core.datasets.tasks import SPLITS, SUITES
from vpeft.errors import UserError
from vpeft.registry import nearest


@dataclass(frozen=True)
class TaskState:
    """What is there of one task.

    Attributes:
        task: Its name.
        counts: Images by split, of the lists that could be read.
        problem: The first thing that is wrong, or None.
        present: Whether anything of it is there: its folder, or the package that holds it.
    """

    task: str
    counts: dict[str, int]
    problem: str | None
    present: bool


def check_suite(root: str | os.PathLike[str], suite: str = "vtab", decode: bool = False) -> list[TaskState]:
    """What of a suite stands under ``root``, task by task.

    Args:
        root: Folder that holds the tasks' folders.
        suite: Key of ``ListedImages.readers``: the suites that are read from lists.
        decode: Read every image, instead of looking whether its file is there.

    Raises:
        UserError: There is no such suite, or ``root`` does not exist and the suite's tasks have folders there.
    """
    if suite not in ListedImages.readers:
        raise UserError(f"unknown suite {suite!r}: {nearest(suite, ListedImages.readers)}")
    if not ListedImages.readers[suite].in_memory and not Path(root).is_dir():
        title = ListedImages.readers[suite].title
        raise UserError(f"{title} folder {root} does not exist: unpack {title} there (docs/data.md).")
    return [_check_task(str(root), ListedImages.readers[suite], task, decode) for task in SUITES[suite]]


def _check_task(root: str, kind: type[ListedImages], task: str, decode: bool) -> TaskState:
    counts: dict[str, int] = {}
    problem = kind(root, task, lazy_init=True).absence()
    if problem is not None:
        return TaskState(task, counts, problem, present=False)
    for split in SPLITS[kind.suite].names:
        try:
            rows = kind(root, task, split, lazy_init=True).load_data_list()
            counts[split] = len(rows)
            for row in rows:
                if kind.in_memory:
                    continue
                if decode:
                    LoadImage.read(row["img_path"], task)
                elif not os.path.isfile(row["img_path"]):
                    raise UserError(f"image {row['img_path']} of {split}{kind.suffix} does not exist")
        except UserError as error:
            problem = problem or str(error)
    expected = SUITES[kind.suite][task].sizes
    for split, count in counts.items():
        if problem is None and count != expected[split]:
            problem = f"{split}{kind.suffix} lists {count} images, the public one {expected[split]}"
    return TaskState(task, counts, problem, present=True)
