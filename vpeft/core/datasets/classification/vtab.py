"""VTAB-1k in its public folder layout."""

from __future__ import annotations

from vpeft.core.datasets.classification.listed import ListedImages
from vpeft.registry import DATASETS


@DATASETS.register_module()
class VTAB1k(ListedImages):
    """One task of VTAB-1k (:class:`~vpeft.core.datasets.classification.listed.ListedImages`).

    The layout, with a line ``images/train800/000000.jpg 307`` (relative path, label) per image::

        <data_root>/<task>/{train800,val200,train800val200,test}.txt
        <data_root>/<task>/images/...
    """

    suite, title = "vtab", "VTAB-1k"
