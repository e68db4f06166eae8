"""ADE20K."""

from __future__ import annotations

from mmseg.datasets import ADE20KDataset

from vpeft.core.datasets.segmentation.label_maps import CheckedMaps
from vpeft.registry import DATASETS


@DATASETS.register_module()
class ADE20K(CheckedMaps, ADE20KDataset):
    """mmseg's ``ADE20KDataset``, checked: 150 classes; 0 in a map belongs to none of them and is ignored.

    The public layout, ``ADEChallengeData2016``::

        <data_root>/images/{training,validation}/ADE_*.jpg
        <data_root>/annotations/{training,validation}/ADE_*.png
    """
