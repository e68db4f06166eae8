"""Tasks whose images are named in lists, each in a folder of its own: what VTAB-1k, FGVC and whole data sets share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from mmengine.dataset import BaseDataset

from vpeft.core.datasets.load.lines import SPACED, list_lines, path_and_label
from vpeft.core.datasets.tasks import SPLITS, check_split, get_task
from vpeft.errors import UserError
from vpeft.files import need_file

#: Why nothing is there of a task that has a folder of its own.
NO_FOLDER = "no folder"


class ListedImages(BaseDataset):
    """One task of a suite, read from ``<data_root>/<task>/<list>``.

    Args:
        data_root: Folder that holds the tasks' folders.
        task: Name of the task.
        split: One of the suite's lists; the one that is trained on in the end unless given.
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.

    Raises:
        UserError: Folder or list missing, a line malformed, a label outside the task's classes: one line that says
            where, and what to do.
    """

    #: Key of the suite, and what users call it.
    suite: ClassVar[str]
    title: ClassVar[str]
    #: Ending of the lists' names.
    suffix: ClassVar[str] = ".txt"
    #: Whether the images are read with the lists: samples hold ``img`` then, and no ``img_path``.
    in_memory: ClassVar[bool] = False
    #: The classes that read a suite, by its key.
    readers: ClassVar[dict[str, type[ListedImages]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        ListedImages.readers[cls.suite] = cls

    def __init__(self, data_root: str, task: str, split: str | None = None, **kwargs) -> None:
        self.task = get_task(task, self.suite)
        self.split = split or SPLITS[self.suite].final
        check_split(self.split, self.suite)
        super().__init__(data_root=data_root, **kwargs)
        # Given as an argument, a text would be looked for as a file.
        self._metainfo.update(task=self.task.name, split=self.split)

    @property
    def num_classes(self) -> int:
        """Classes of the task; labels are 0 to ``num_classes - 1``."""
        return self.task.num_classes

    def read(self, file: Path) -> Iterator[tuple[str, str, int]]:
        """Every entry of a list, a line ``<path> <label>`` each: where it stands, for messages; path below the task's
        folder; label. Empty lines are passed over.

        Raises:
            UserError: A line is of another form.
        """
        for where, line in list_lines(file):
            yield where, *path_and_label(line, where, SPACED, "<path> <label>")

    def files(self, folder: Path) -> list[Path]:
        """The lists that the split is made of."""
        return [folder / f"{self.split}{self.suffix}"]

    def folder(self) -> Path:
        """The task's folder, under its name or an alias."""
        root = Path(self.data_root)
        if not os.path.isdir(root):
            raise UserError(
                f"{self.title} folder {root} does not exist: unpack {self.title} there or set data_root (docs/data.md)."
            )
        names = (self.task.name, *self.task.aliases)
        found = next((root / name for name in names if os.path.isdir(root / name)), None)
        if found is None:
            raise UserError(
                f"task {self.task.name}: folder {root / self.task.name} does not exist:"
                f" unpack it there; {self._look()} says what is missing."
            )
        return found

    def absence(self) -> str | None:
        """Why nothing of the task is there; None where something is."""
        try:
            return None if self.folder().is_dir() else NO_FOLDER
        except UserError:
            return NO_FOLDER

    def _look(self) -> str:
        return f"`tools/data.py check {self.data_root} --suite {self.suite}`"

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the split's lists."""
        folder, rows = self.folder(), []
        for file in self.files(folder):
            need_file(file, f"task {self.task.name}: list", f"{self._look()} says what is missing")
            before = len(rows)
            for where, path, label in self.read(file):
                if not 0 <= label < self.task.num_classes:
                    raise UserError(
                        f"{where}: label {label} is out of range: task {self.task.name} has the classes 0 to "
                        f"{self.task.num_classes - 1}."
                    )
                rows.append({"img_path": str(folder / path), "gt_label": label, "task": self.task.name})
            if len(rows) == before:
                raise UserError(f"task {self.task.name}: list {file} is empty: unpack it again.")
        return rows

    def prepare_data(self, idx: int) -> Any:
        """One sample; a broken image stops the run instead of being replaced by another."""
        return self.pipeline(self.get_data_info(idx))
