"""A user's own clips: videos, or folders of frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vpeft.core.datasets.load.frames import LoadFrames  # noqa: F401  (registers)
from vpeft.core.datasets.video.lists import VideoList
from vpeft.errors import UserError
from vpeft.files import read_json
from vpeft.registry import DATASETS


@DATASETS.register_module()
class ListedClips(VideoList):
    """Clips of a list in mmengine's form: ``data_list`` of ``filename``, ``label`` and, of a folder of frames, their
    names in order, ``frames``.

    A clip of frames is read by ``vpeft.LoadFrames`` behind mmaction2's ``SampleFrames``.

    Args:
        **kwargs: Of :class:`~vpeft.core.datasets.video.lists.VideoList`; paths are below ``data_root``.

    Raises:
        UserError: As :class:`~vpeft.core.datasets.video.lists.VideoList`.
    """

    def load_data_list(self) -> list[dict[str, Any]]:
        """Read the list."""
        file = self.ann_file
        content = read_json(file, "list of clips", "train anew: `vpeft train DATA` writes it")
        try:
            return [self._row(row) for row in content["data_list"]]
        except (KeyError, TypeError) as error:
            raise UserError(f"list of clips {file}: a row lacks {error}: train anew, which writes it.") from error

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        path, label = Path(self.data_root, row["filename"]), row["label"]
        if not 0 <= label < self.num_classes:
            raise UserError(
                f"{self.ann_file}: label {label} is out of range: the classes are 0 to {self.num_classes - 1}."
            )
        found = {"label": label, "start_index": 0, "modality": "RGB"}
        if "frames" not in row:
            return {"filename": str(path), **found}
        frames = [str(path / name) for name in row["frames"]]
        return {"frame_dir": str(path), "frames": frames, "total_frames": len(frames), **found}

    def prepare_data(self, idx: int) -> Any:
        """One sample; a broken file stops the run instead of being replaced by another."""
        info = self.get_data_info(idx)
        return self.pipeline(info) if "frames" in info else super().prepare_data(idx)
