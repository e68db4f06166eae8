"""VTAB-1k in its public folder layout."""

from __future__ import annotations

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.core.datasets.tasks import Splits, register_suite
from vpeft.registry import DATASETS

register_suite(
    "vtab",
    Splits("train800", "val200", "train800val200"),
    {
        "natural": [
            ("cifar", 100, 10_000, True, ("cifar100", "cifar_100")),
            ("caltech101", 102, 6_084),
            ("dtd", 47, 1_880),
            ("oxford_flowers102", 102, 6_149, True, ("flowers102", "oxford_flowers")),
            ("oxford_iiit_pet", 37, 3_669, True, ("pets", "oxford_pets")),
            ("svhn", 10, 26_032, False),
            ("sun397", 397, 21_750),
        ],
        "specialized": [
            ("patch_camelyon", 2, 32_768, True, ("camelyon",)),
            ("eurosat", 10, 5_400),
            ("resisc45", 45, 6_300, True, ("resisc",)),
            ("diabetic_retinopathy", 5, 42_670, True, ("retinopathy",)),
        ],
        "structured": [
            ("clevr_count", 8, 15_000),
            ("clevr_dist", 6, 15_000, True, ("clevr_distance",)),
            ("dmlab", 6, 22_735),
            ("kitti", 4, 711),
            ("dsprites_loc", 16, 73_728, False, ("dsprites_location",)),
            ("dsprites_ori", 16, 73_728, False, ("dsprites_orientation",)),
            ("smallnorb_azi", 18, 12_150, False, ("smallnorb_azimuth",)),
            ("smallnorb_ele", 9, 12_150, True, ("smallnorb_elevation",)),
        ],
    },
    title="VTAB-1k",
)


@DATASETS.register_module()
class VTAB1k(ListedImages):
    """One task of VTAB-1k (:class:`~vpeft.core.datasets.classification.listed.ListedImages`).

    The layout, with a line ``images/train800/000000.jpg 307`` (relative path, label) per image::

        <data_root>/<task>/{train800,val200,train800val200,test}.txt
        <data_root>/<task>/images/...
    """

    suite, title = "vtab", "VTAB-1k"
