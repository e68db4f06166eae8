"""Drawn scenes with boxes, as COCO and as VOC."""

from __future__ import annotations

from pathlib import Path

from vpeft.core.datasets.detection.coco import CheckedCoco
from vpeft.core.datasets.detection.voc import CheckedVOC
from vpeft.core.datasets.embedded.scene_files import write_coco, write_voc
from vpeft.core.datasets.embedded.scenes import CLASSES, PALETTE, ensure
from vpeft.core.datasets.real.scenes import REAL_SCENE_SPLITS, draw_real_split
from vpeft.registry import DATASETS


@DATASETS.register_module()
class SceneCoco(CheckedCoco):
    """Embedded scenes with boxes and masks: COCO's files, drawn into ``data_root`` on first use."""

    METAINFO = {"classes": CLASSES, "palette": list(PALETTE)}

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(data_root=str(ensure(data_root, write_coco)), **kwargs)


@DATASETS.register_module()
class SceneVOC(CheckedVOC):
    """Embedded scenes with boxes: VOC's files, drawn into ``data_root`` on first use."""

    METAINFO = {"classes": CLASSES, "palette": list(PALETTE)}

    def __init__(self, data_root: str, **kwargs) -> None:
        root = str(ensure(data_root, write_voc))
        super().__init__(data_root=root, data_prefix={"sub_data_root": ""}, **kwargs)


@DATASETS.register_module()
class RealSceneCoco(CheckedCoco):
    """Scenes at 224 pixels in front of photographs, with boxes and masks: COCO's files, drawn on first use."""

    METAINFO = {"classes": CLASSES, "palette": list(PALETTE)}

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(data_root=str(ensure(data_root, _write_real)), **kwargs)


def _write_real(root: Path) -> None:
    write_coco(root, REAL_SCENE_SPLITS, draw=draw_real_split)
