"""Detection and instances; this room alone needs mmdet."""

from vpeft.core.datasets.detection.coco import CheckedCoco
from vpeft.core.datasets.detection.scenes import RealSceneCoco, SceneCoco, SceneVOC
from vpeft.core.datasets.detection.voc import CheckedVOC

__all__ = ["CheckedCoco", "CheckedVOC", "RealSceneCoco", "SceneCoco", "SceneVOC"]
