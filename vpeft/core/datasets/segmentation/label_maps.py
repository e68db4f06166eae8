"""Label maps: ADE20K in its public layout, the embedded scenes in the same, and a reader that checks what it reads.

Importing this module needs mmsegmentation; configs name it in ``custom_imports``.
"""

from __future__ import annotations

import os
from typing import Any

from vpeft.errors import UserError


class CheckedMaps:
    """Refuses a folder in which something is missing, before training starts; stands before mmseg's data sets."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """The samples; each knows how many classes its map may hold.

        Raises:
            UserError: A folder, an image or a label map is missing, or there is no image at all.
        """
        folders = {key: self.data_prefix[key] for key in ("img_path", "seg_map_path") if self.data_prefix.get(key)}
        for key, folder in folders.items():
            if not os.path.isdir(folder):
                raise UserError(
                    f"{key} of {type(self).__name__}: folder {folder} does not exist: unpack the data set there, or "
                    "set data_root (docs/segmentation.md)."
                )
        rows = super().load_data_list()
        if not rows:
            raise UserError(f"{folders['img_path']} holds no image *{self.img_suffix}: unpack the data set again.")
        for name, key in (("image", "img_path"), ("label map", "seg_map_path")):
            missing = [row[key] for row in rows if key in row and not os.path.isfile(row[key])]
            if missing:
                raise UserError(
                    f"{len(missing)} of {len(rows)} {name}s do not exist, first {missing[0]}: the data set was "
                    "unpacked only in part."
                )
        for row in rows:
            row["num_classes"] = len(self.metainfo["classes"])
        return rows
