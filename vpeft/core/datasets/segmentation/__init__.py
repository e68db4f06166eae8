"""Semantic segmentation; this room alone needs mmseg."""

from vpeft.core.datasets.load.label_map import LoadLabelMap
from vpeft.core.datasets.segmentation.ade20k import ADE20K
from vpeft.core.datasets.segmentation.label_maps import CheckedMaps
from vpeft.core.datasets.segmentation.listed_maps import ListedMaps
from vpeft.core.datasets.segmentation.scenes import RealSceneMaps, SceneMaps

__all__ = ["ADE20K", "CheckedMaps", "ListedMaps", "LoadLabelMap", "RealSceneMaps", "SceneMaps"]
