"""Detection and instances; this room alone needs mmdet."""

from vpeft.core.datasets.detection.coco import CheckedCoco
from vpeft.core.datasets.detection.scenes import SceneCoco, SceneVOC
from vpeft.core.datasets.detection.voc import CheckedVOC

__all__ = ["CheckedCoco", "CheckedVOC", "SceneCoco", "SceneVOC"]
