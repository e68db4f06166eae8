"""What each published table says of which task, backbone and metric, in the names of our results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vpeft.apis.results.published.tables import VTAB_COLUMNS, published_table, source
from vpeft.core.datasets.tasks import SUITES
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Registered names of the published rows: the survey's, and the study's.
SURVEY = {
    "Full fine-tuning": "Full",
    "Linear probing": "Linear",
    "Frozen": "Linear",
    "Adapter": "PfeifferAdapter",
    "VPT-Shallow": "VPTShallow",
    "VPT-Deep": "VPTDeep",
    "LN-Tune": "LNTune",
    "FacT": "FacT-TK",
    "Prefix-tuning": "PrefixTuning",
    **{n: n for n in ("BitFit", "LoRA", "AdaptFormer", "SSF", "NOAH", "SCT", "RepAdapter", "Hydra", "LST", "DTL")},
    **{n: n for n in ("HST", "GPS", "LAST", "SNF", "BAPAT", "LoRand", "E3VA", "Mona")},
}
#: In the dense table "Adapter" has two modules a block, as its parameters show.
DENSE = {**SURVEY, "Adapter": "HoulsbyAdapter"}
STUDY = {
    "linear": "Linear",
    "full": "Full",
    "vpt_shallow": "VPTShallow",
    "vpt_deep": "VPTDeep",
    "bitfit": "BitFit",
    "difffit": "DiffFit",
    "ln": "LNTune",
    "ssf": "SSF",
    "lora_p_adapter": "PfeifferAdapter",
    "rand_h_adapter": "HoulsbyAdapter",
    "adaptformer": "AdaptFormer",
    "repadapter": "RepAdapter",
    "convpass": "Convpass",
    "lora": "LoRA",
    "fact_tt": "FacT-TT",
    "fact_tk": "FacT-TK",
}
#: Robustness and many-shot rows name their size.
ROBUSTNESS = {
    **STUDY,
    **{f"lora_{2**i}": {"type": "LoRA", "rank": 2**i} for i in range(9)},
    **{f"fact_tk_{2**i}": {"type": "FacT-TK", "rank": 2**i} for i in range(9)},
    **{f"rand_h_adapter_{2**i}": {"type": "HoulsbyAdapter", "bottleneck": 2**i} for i in range(9)},
}

TASK, MEAN, GROUP, MEAN_OF_GROUPS, PARAMETERS, PPT = (
    "task",
    "mean of tasks",
    "group mean",
    "mean of groups",
    "parameters",
    "PPT",
)


@dataclass(frozen=True)
class Column:
    """A printed column, read as one figure of ours.

    Attributes:
        name: In the CSV.
        kind: Of what: a task, an average, parameters (in millions), PPT.
        board: Our board: a suite, or a task of none.
        backbone: Our backbone.
        what: The task or the group.
        metric: Name in a run's ``metrics``; None for the run's main metric.
        shots: Training images of each class, None for all.
        missing: Why it cannot be compared at all; empty where it can.
    """

    name: str
    kind: str
    board: str
    backbone: str
    what: str = ""
    metric: str | None = None
    shots: int | None = None
    missing: str = ""


@dataclass(frozen=True)
class Table:
    """A published table.

    Attributes:
        columns: By the backbone that the rows name, an empty one where they name none.
        methods: Registered names by printed ones; for rows of one size a config, whose fields ours must equal.
        remark: What a reader of a difference should know.
        rerun: Re-run noise of a task in points, where it is known, and ``mean`` for an average.
        missing: Why nothing of it can be compared; empty where something can.
    """

    name: str
    columns: Mapping[str, Sequence[Column]] = field(default_factory=dict)
    methods: Mapping[str, str | Mapping[str, Any]] = field(default_factory=dict)
    remark: str = ""
    rerun: Mapping[str, float] = field(default_factory=dict)
    missing: str = ""

    @property
    def source(self) -> str:
        """Where it is from."""
        return source(self.name)

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any], Sequence[Column], Mapping[str, str]]]:
        """Printed name, our method's ``type`` and other fields (empty where there is none), columns, cells of each row.

        Of two figures in one cell, "last / best test epoch", the first is taken.
        """
        for row in published_table(self.name):
            backbone = row.get("backbone", "")
            label = f"{row['method']} on {backbone}" if backbone else row["method"]
            ours = self.methods.get(row["method"], {})
            cells = {name: text.partition(" / ")[0] for name, text in row.items()}
            yield label, {"type": ours} if isinstance(ours, str) else ours, self.columns.get(backbone, ()), cells


#: Points between two runs of one public recipe with one seed: the median task, those that scatter up to 5, the mean of
#: 19 within which a reproduction counts as one.
_WIDE = {name for name in SUITES["vtab"] if name.startswith(("kitti", "dsprites", "smallnorb", "diabetic"))}
RERUN = {**{name: 5.0 if name in _WIDE else 0.55 for name in SUITES["vtab"]}, "mean": 0.7}


def _vtab(tasks: Mapping[str, str], **others: str) -> dict[str, list[Column]]:
    """Columns of a VTAB-1k table of ViT-B/16; ``others`` are names in the CSV by kind or group."""
    kinds = {"mean": MEAN, "mean_of_groups": MEAN_OF_GROUPS, "parameters": PARAMETERS, "ppt": PPT}
    found = [Column(name, TASK, "vtab", "vit", task) for name, task in tasks.items()]
    for what, name in others.items():
        found.append(Column(name, kinds.get(what, GROUP), "vtab", "vit", "" if what in kinds else what))
    return {"": found}


def _alone(task: str, name: str, ppt: str, metric: str) -> list[Column]:
    """A metric and its PPT of a task that is a board of its own; its backbone is named as it is."""
    return [Column(name, TASK, task, task, task, metric), Column(ppt, PPT, task, task, task, metric)]


def _video(backbone: str) -> list[Column]:
    top1, found = "acc/top1", []
    for data in ("ssv2", "hmdb51"):
        task = f"{backbone}_{data}"
        found += _alone(task, f"{data}_top1", f"{data}_ppt", top1)
        found.append(Column("params_m", PARAMETERS, task, task, task))
    return found


_SURVEY_TASKS = {
    name: task
    for name in published_table("vtab1k_vit_b16_in21k")[0]
    if (task := VTAB_COLUMNS.get(name, name)) in SUITES["vtab"]
}
_SHORT = "C100 Cal DTD Flw Pet SVHN SUN Cam Euro Res Retin ClvC ClvD DMLab KITTI dLoc dOri nAzi nEle"
_STUDY = _vtab(
    dict(zip(_SHORT.split(), SUITES["vtab"], strict=True)),
    natural="Nat",
    specialized="Spec",
    structured="Struct",
    mean="mean19",
    mean_of_groups="grp-mean",
    parameters="P(M)",
)
_BOX, _MASK = "coco/bbox_mAP", "coco/segm_mAP"
_MEMORY = "peak memory depends on the accelerator, the batch and what is counted"
_SHIFTS = "result files hold the test on ImageNet alone; the shifted sets are tested by tools/analysis/wise.py"
_DENSE = [
    Column("coco_swin_b_params_m", PARAMETERS, "swin-b_coco", "swin-b_coco", "swin-b_coco"),
    Column("coco_memory_mb", "memory", "swin-b_coco", "swin-b_coco", "swin-b_coco", missing=_MEMORY),
    *_alone("swin-b_coco", "coco_ap_box", "coco_ap_box_ppt", _BOX),
    *_alone("swin-b_coco", "coco_ap_mask", "coco_ap_mask_ppt", _MASK),
    Column("swin_l_params_m", PARAMETERS, "swin-l_voc", "swin-l_voc", "swin-l_voc"),
    Column("swin_l_params_m", PARAMETERS, "swin-l_ade20k", "swin-l_ade20k", "swin-l_ade20k"),
    Column("swin_l_memory_mb", "memory", "swin-l_voc", "swin-l_voc", "swin-l_voc", missing=_MEMORY),
    *_alone("swin-l_voc", "voc_ap_box", "voc_ppt", "pascal_voc/mAP"),
    *_alone("swin-l_ade20k", "ade20k_miou", "ade20k_ppt", "mIoU"),
]
_CLIP = "clip-vit-b_imagenet"
_ROBUSTNESS = [
    Column("P(M)", PARAMETERS, _CLIP, _CLIP, _CLIP),
    Column("ImageNet", TASK, _CLIP, _CLIP, _CLIP, "accuracy/top1"),
    *(Column(name, TASK, _CLIP, _CLIP, _CLIP, missing=_SHIFTS) for name in ("V2", "R", "S", "A", "mean OOD")),
]
_MANY = [
    ("CIFAR-100", "cifar100_full", "500"),
    ("RESISC", "resisc45_full", "225"),
    ("Clevr-dist", "clevr_dist_full", ""),
]
_MANY_SHOT = [
    Column("P(M)", PARAMETERS, "many_shot", "vit"),
    *(Column(f"{name} full", TASK, "many_shot", "vit", task) for name, task, _ in _MANY),
    *(Column(f"{name} {few}", TASK, "many_shot", "vit", task, shots=5) for name, task, few in _MANY if few),
]
_SURVEY = "seeds, tuning budgets and the tested epoch of its rows are not stated in it"
_LATE = (
    "its public code initialises weights after it has built adapters and LoRA, which so do not start as the identity"
)

TABLES = {
    t.name: t
    for t in (
        Table("vtab1k_vit_b16_in21k", _vtab(_SURVEY_TASKS, mean="mean_19", parameters="params_m", ppt="ppt"), SURVEY,
              _SURVEY, RERUN),
        Table("video_k400", {"ViT-B (VideoMAE)": _video("vit-b"), "Video Swin-B": _video("swin-b")}, SURVEY, _SURVEY),
        Table("dense_swin_in22k", {"": _DENSE}, DENSE, _SURVEY),
        Table("peft_vision_vtab1k_last_epoch", _STUDY, STUDY,
              f"the last epoch; {_LATE}", RERUN),
        Table("peft_vision_vtab1k_best_test_epoch", _STUDY, STUDY,
              f"the best of 100 looks at the test set, too high by construction; {_LATE}", RERUN),
        Table("peft_vision_clip_robustness", {"": _ROBUSTNESS}, ROBUSTNESS, _LATE),
        Table("peft_vision_many_shot", {"": _MANY_SHOT}, ROBUSTNESS, f"the last epoch; {_LATE}"),
        Table("peft_vision_wise_curves",
              missing="result files hold no curves over alpha; tools/analysis/wise.py draws them"),
    )
}  # fmt: skip


def find_table(name: str) -> Table:
    """A table by its name, with or without ``.csv``.

    Raises:
        UserError: There is none; the message names the nearest.
    """
    name = name.removesuffix(".csv")
    if name not in TABLES:
        raise UserError(f"no published table {name!r}: {nearest(name, TABLES)}")
    return TABLES[name]
