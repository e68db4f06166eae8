"""Images and label maps named in a list, each with whatever ending it has.

Importing this module needs mmsegmentation; configs name it in ``custom_imports``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmseg.datasets import BaseSegDataset

from vpeft.core.datasets.segmentation.label_maps import CheckedMaps
from vpeft.errors import UserError
from vpeft.files import read_json
from vpeft.registry import DATASETS


class _ListedSegDataset(BaseSegDataset):
    """mmseg's, which reads mmengine's form of lists instead of looking through folders."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples of the list."""
        file, root = self.ann_file, Path(self.data_root)
        content = read_json(file, "list of label maps", "train anew: `vpeft train DATA` writes it")
        try:
            rows = [(row["img_path"], row["seg_map_path"]) for row in content["data_list"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"list of label maps {file}: a row lacks {error}: train anew, which writes it.") from error
        fixed = {"label_map": self.label_map, "reduce_zero_label": self.reduce_zero_label}
        return [
            {"img_path": str(root / image), "seg_map_path": str(root / label_map), "seg_fields": [], **fixed}
            for image, label_map in rows
        ]


@DATASETS.register_module()
class ListedMaps(CheckedMaps, _ListedSegDataset):
    """Images and label maps of a user's own (``vpeft train DATA``).

    Args:
        ann_file: JSON in mmengine's form: ``data_list`` of ``img_path`` and ``seg_map_path``, below ``data_root``.
        **kwargs: Of mmseg's ``BaseSegDataset``; the classes are named in ``metainfo``.

    Raises:
        UserError: The list, an image or a label map is missing.
    """
