"""Lists of videos, and videos that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dataset import BaseDataset

from vpeft.core.datasets.embedded.moving_shapes import CLASSES, ensure_moving
from vpeft.core.datasets.embedded.second.moving_v2 import CLASSES_V2, ensure_moving_v2
from vpeft.core.datasets.load.lines import SEPARATED, list_lines, path_and_label
from vpeft.core.datasets.load.video import fault, undecodable
from vpeft.errors import UserError
from vpeft.files import unreadable
from vpeft.registry import DATASETS

#: What draws data sets on first use, and the names of their classes, by name.
EMBEDDED_CLIPS = {
    "moving_shapes": (ensure_moving, CLASSES),
    "moving_shapes_v2": (ensure_moving_v2, CLASSES_V2),
}


@DATASETS.register_module()
class VideoList(BaseDataset):
    """Videos and their classes, read from a list; the samples are those of mmaction2's ``VideoDataset``.

    The list has a line ``path,label`` (or ``path label``) per video and no header; the path is relative to
    ``<data_root>/<data_prefix["video"]>``.

    Args:
        ann_file: The list, relative to ``data_root``: ``train.csv``, or ``train_2.csv`` of the second of several
            official splits.
        num_classes: Labels are 0 to ``num_classes - 1``.
        name: Name of the data set, for messages. ``moving_shapes`` and ``moving_shapes_v2`` are drawn into
            ``data_root`` on first use.
        flip_safe: Whether a clip that is mirrored left to right keeps its label; else a pipeline that flips is
            refused.
        check: Look through every video's container before it is decoded. decord 0.6 takes some truncated files for
            short ones, and crashes the process on others.
        data_prefix: Folder of the videos below ``data_root``.
        **kwargs: Of mmengine's ``BaseDataset``: ``data_root``, ``pipeline``, ``test_mode``.

    Raises:
        UserError: The list is missing, empty or malformed, or a label outside the classes; a video is missing, empty,
            truncated or no video. The message is one line that names the file; no other video takes its place.
    """

    def __init__(
        self,
        ann_file: str,
        num_classes: int,
        name: str = "video",
        flip_safe: bool = True,
        check: bool = True,
        data_prefix: dict[str, str] | None = None,
        **kwargs,
    ) -> None:
        self.name, self.num_classes, self.check = name, num_classes, check
        if not flip_safe and any(flips(step) for step in kwargs.get("pipeline", [])):
            raise UserError(f"{name}: its labels tell left from right, and the pipeline flips: leave the flip out.")
        if name in EMBEDDED_CLIPS:
            EMBEDDED_CLIPS[name][0](kwargs["data_root"])
        super().__init__(ann_file=ann_file, data_prefix=data_prefix or {"video": ""}, **kwargs)
        # Given as an argument, a text would be looked for as a file.
        self._metainfo.update(data_set=name)
        if name in EMBEDDED_CLIPS:
            self._metainfo.setdefault("classes", EMBEDDED_CLIPS[name][1])

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the list."""
        file, rows = Path(self.ann_file), []
        for where, line in list_lines(file, f"{self.name}: list", "write it or set data_root (docs/video.md)"):
            name, label = path_and_label(line, f"{self.name}: {where}", SEPARATED, "<path>,<label>")
            if not 0 <= label < self.num_classes:
                raise UserError(
                    f"{self.name}: {where}: label {label} is out of range: the classes are 0 to {self.num_classes - 1}."
                )
            path = Path(self.data_prefix["video"], name.strip('"'))
            # mmaction2 opens a name without a suffix with this one.
            path = path if path.suffix else Path(f"{path}.mp4")
            rows.append({"filename": str(path), "label": label, "start_index": 0, "modality": "RGB"})
        if not rows:
            raise UserError(f"{self.name}: list {file} is empty: write a line `<path>,<label>` per video.")
        return rows

    def prepare_data(self, idx: int) -> Any:
        """One sample; a broken video stops the run instead of being replaced by another."""
        info = self.get_data_info(idx)
        path = info["filename"]
        if self.check or unreadable(path):
            self._refuse(path, fault(path))
        try:
            sample = self.pipeline(info)
        except UserError:
            raise
        except Exception as error:
            self._refuse(path, undecodable(path), error)
            raise
        if sample is None:
            raise UserError(
                f"{self.name}: video {path}: the pipeline gave nothing, and no other video takes its place."
            )
        return sample

    def _refuse(self, path: str, reason: str | None, cause: Exception | None = None) -> None:
        if reason is not None:
            raise UserError(f"{self.name}: video {path} {reason}") from cause


def flips(step: Any) -> bool:
    """Whether a step of a pipeline mirrors clips left to right."""
    return (
        isinstance(step, dict)
        and str(step.get("type")).rpartition(".")[2] == "Flip"
        and step.get("flip_ratio", 0.5) > 0
        and step.get("direction", "horizontal") == "horizontal"
    )
