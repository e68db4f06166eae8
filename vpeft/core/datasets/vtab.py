"""VTAB-1k in its public folder layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from vpeft.core.datasets.tasks import check_split, get_task
from vpeft.errors import UserError
from vpeft.registry import DATASETS


@DATASETS.register_module()
class VTAB1k(BaseDataset):
    """One task of VTAB-1k.

    The layout, with a line ``images/train800/000000.jpg 307`` (relative path, label) per image::

        <data_root>/<task>/{train800,val200,train800val200,test}.txt
        <data_root>/<task>/images/...

    Args:
        data_root: Folder that holds the tasks' folders.
        task: Name of the task.
        split: ``train800 | val200 | train800val200 | test``.
        **kwargs: Of mmengine's ``BaseDataset``, such as ``pipeline``.

    Raises:
        UserError: Folder or list missing, a line malformed, a label outside the task's classes: one line that says
            where, and what to do.
    """

    def __init__(self, data_root: str, task: str, split: str = "train800val200", **kwargs) -> None:
        self.task = get_task(task, "vtab")
        check_split(split)
        self.split = split
        super().__init__(data_root=data_root, **kwargs)
        # Given as an argument, a text would be looked for as a file.
        self._metainfo.update(task=self.task.name, split=split)

    def folder(self) -> Path:
        """The task's folder, under its name or an alias."""
        root = Path(self.data_root)
        if not root.is_dir():
            raise UserError(
                f"VTAB-1k folder {root} does not exist: unpack VTAB-1k there or set data_root (docs/data.md)."
            )
        names = (self.task.name, *self.task.aliases)
        found = next((root / name for name in names if (root / name).is_dir()), None)
        if found is None:
            raise UserError(
                f"task {self.task.name}: folder {root / self.task.name} does not exist:"
                f" unpack it there; `tools/data.py check {root}` says what is missing."
            )
        return found

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the split's list."""
        folder = self.folder()
        file = folder / f"{self.split}.txt"
        if not file.is_file():
            raise UserError(
                f"task {self.task.name}: list {file} does not exist: `tools/data.py check {self.data_root}` says what "
                "is missing."
            )
        rows = []
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if not line.strip():
                continue
            path, _, label = line.strip().rpartition(" ")
            if not path or not label.lstrip("-").isdigit():
                raise UserError(f"{file}:{number}: {line!r} is not `<path> <label>`.")
            if not 0 <= int(label) < self.task.num_classes:
                raise UserError(
                    f"{file}:{number}: label {label} is out of range: task {self.task.name} has the classes 0 to "
                    f"{self.task.num_classes - 1}."
                )
            rows.append({"img_path": str(folder / path.strip()), "gt_label": int(label), "task": self.task.name})
        if not rows:
            raise UserError(f"task {self.task.name}: list {file} is empty: unpack it again.")
        return rows

    def prepare_data(self, idx: int) -> Any:
        """One sample; a broken image stops the run instead of being replaced by another."""
        return self.pipeline(self.get_data_info(idx))
