"""Published tables, as data: what others have reported, and from where.

==========================================  ==========================================================================
``vtab1k_vit_b16_in21k.csv``                VTAB-1k, ViT-B/16 of ImageNet-21k, top-1; survey arXiv 2402.02242v5
``video_k400.csv``                          SSv2 and HMDB51, VideoMAE ViT-B and Video Swin-B, top-1; the same
``dense_swin_in22k.csv``                    COCO, VOC, ADE20K, Swin-B and Swin-L of ImageNet-22k; the same
``peft_vision_vtab1k_last_epoch.csv``       VTAB-1k of the study PEFT-Vision, last epoch; arXiv 2409.16434v5
``peft_vision_vtab1k_best_test_epoch.csv``  the same, the best of 100 looks at the test set
``peft_vision_many_shot.csv``               sizes of three methods on whole data sets, last / best test epoch; the same
``peft_vision_clip_robustness.csv``         CLIP ViT-B/16, 100-shot ImageNet and its shifts; the same
``peft_vision_wise_curves.csv``             weight-space interpolation, ImageNet / mean of shifts by alpha; the same
==========================================  ==========================================================================

Parameters are in millions, without the head.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from vpeft.core.families.metrics import ppt
from vpeft.errors import UserError
from vpeft.registry import nearest

FOLDER = Path(__file__).parent

#: Sources by the start of a file's name; the survey's where none fits.
SOURCES = {"peft_vision": "arXiv 2409.16434v5", "": "arXiv 2402.02242v5"}

#: Columns of a metric in percent, of its parameters in millions, and of its PPT, by table.
PPT_COLUMNS: dict[str, list[tuple[str, str, str]]] = {
    "vtab1k_vit_b16_in21k": [("mean_19", "params_m", "ppt")],
    "video_k400": [(f"{d}_top1", "params_m", f"{d}_ppt") for d in ("ssv2", "hmdb51")],
    "dense_swin_in22k": [
        ("coco_ap_box", "coco_swin_b_params_m", "coco_ap_box_ppt"),
        ("coco_ap_mask", "coco_swin_b_params_m", "coco_ap_mask_ppt"),
        ("voc_ap_box", "swin_l_params_m", "voc_ppt"),
        ("ade20k_miou", "swin_l_params_m", "ade20k_ppt"),
    ],
}

#: Cells whose published PPT does not follow from their own metric and parameters to within 0.01, with what does.
PPT_EXCEPTIONS = {("vtab1k_vit_b16_in21k", "RepAdapter", "ppt"): "0.72 is printed, 73.84 % and 0.22 M give 0.7315"}

#: Names of VTAB-1k tasks in the published tables that are not those of :mod:`vpeft.core.datasets.tasks`.
VTAB_COLUMNS = {
    "cifar100": "cifar",
    "clevr_distance": "clevr_dist",
    "kitti_distance": "kitti",
    "dsprites_location": "dsprites_loc",
    "dsprites_orientation": "dsprites_ori",
    "smallnorb_azimuth": "smallnorb_azi",
    "smallnorb_elevation": "smallnorb_ele",
}


def table_files() -> dict[str, Path]:
    """The files of all tables, by their names."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.csv"))}


def published_table(name: str) -> list[dict[str, str]]:
    """Rows of a published table, as printed.

    Raises:
        UserError: Unknown table; the message names the nearest.
    """
    known = table_files()
    if name not in known:
        raise UserError(f"no published table {name!r}: {nearest(name, known)}")
    with open(known[name], newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def source(name: str) -> str:
    """Where a published table is from."""
    return next(text for start, text in SOURCES.items() if name.startswith(start))


@dataclass
class Recomputed:
    """A published PPT and what its own metric and parameters give.

    Attributes:
        table, row, column: Which cell.
        printed: As published.
        computed: By :func:`vpeft.core.adaptation.report.ppt`.
    """

    table: str
    row: str
    column: str
    printed: float
    computed: float


def recompute_ppt() -> list[Recomputed]:
    """Every published PPT beside ``M exp(-log10(P / 1e7 + 1))`` of the metric and the parameters of its row."""
    found = []
    for name, columns in PPT_COLUMNS.items():
        for row in published_table(name):
            label = " ".join(filter(None, (row.get("backbone"), row["method"])))
            for metric, parameters, printed in columns:
                if row[printed]:
                    value = ppt(float(row[metric]) / 100, round(float(row[parameters]) * 1e6))
                    found.append(Recomputed(name, label, printed, float(row[printed]), value))
    return found
