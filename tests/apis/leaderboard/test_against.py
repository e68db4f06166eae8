"""Ours against published tables, worked by hand."""

import csv
import io
from pathlib import Path

import pytest
from support.results import result, store

from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.apis.leaderboard.against import against, seed_noise
from vpeft.apis.leaderboard.boards import boards
from vpeft.apis.leaderboard.text import differences_csv
from vpeft.apis.results.files import read_results
from vpeft.apis.results.published.columns import TABLES, find_table
from vpeft.core.datasets.tasks import SUITES
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[3]
LORA = dict(
    zip(SUITES["vtab"], (67.1, 91.4, 69.4, 98.8, 90.4, 85.3, 54.0, 84.9, 95.3, 84.4, 73.6, 82.9, 69.2, 49.8, 78.5,
               75.7, 47.1, 31.0, 44.0), strict=True)
)  # fmt: skip


def vtab(method, task, seed, percent, parameters=294_912, **changes):
    own = {
        "task": task,
        "suite": "vtab",
        "group": SUITES["vtab"][task].group,
        "backbone": "vit",
        "data_variant": "jpeg",
    }
    return {**result(method, "digits", seed, percent / 100, parameters, config_text=task), **own, **changes}


def compare(tmp_path, name, *runs):
    store(tmp_path, *runs)
    found = against(boards(read_results(tmp_path)), find_table(name))
    return found, {d.column: d for d in found.found}


def test_tables_name_what_there_is():
    for table in TABLES.values():
        for _, method, columns, cells in table.rows():
            assert not method or method["type"] in PEFT_METHODS
            assert {c.name for c in columns} <= {*cells}
        if table.columns:
            left = {n for _, _, columns, cells in table.rows() for n in cells if n not in {c.name for c in columns}}
            assert left == {"method"} | ({"backbone"} if table.name == "video_k400" else set())
    rows = {label: method for label, method, _, _ in TABLES["vtab1k_vit_b16_in21k"].rows()}
    assert all(rows.values())


def test_the_published_row_again_differs_in_nothing(tmp_path):
    """Ours as printed, one seed: equal everywhere, the mean within the rounding of the cells."""
    _, by_column = compare(tmp_path, "vtab1k_vit_b16_in21k", *(vtab("LoRA", t, 0, v) for t, v in LORA.items()))
    assert len(by_column) == 22
    assert all(abs(d.difference) < 1e-9 for d in by_column.values() if d.kind == "task")
    assert abs(by_column["mean_19"].difference) < 0.01
    assert by_column["mean_19"].noise == pytest.approx(0.7 + 0.005)
    assert by_column["params_m"].verdict == "equal"  # 0.294912 is printed 0.29
    assert by_column["ppt"].difference == pytest.approx(0.7134 - 0.71, abs=1e-4)
    assert {d.verdict for d in by_column.values()} == {"within noise", "equal"}


def test_flags_by_hand(tmp_path):
    # Spread 0.1 of three seeds: 4.3027 * 0.1 * sqrt(4/3) = 0.4968, less than the re-run noise of 0.55.
    runs = [vtab("LoRA", "svhn", s, 85.9 + d) for s, d in enumerate((-0.1, 0, 0.1))]
    runs += [vtab("LoRA", "dtd", s, 70.1 + d) for s, d in enumerate((-0.1, 0, 0.1))]
    # Spread 1: 4.968 of the seeds counts.
    runs += [vtab("LoRA", "sun397", s, 49.5 + d) for s, d in enumerate((-1, 0, 1))]
    runs += [vtab("LoRA", "kitti", 0, 83.5)]  # up to 5 points between re-runs
    found, by_column = compare(tmp_path, "vtab1k_vit_b16_in21k", *runs)
    svhn, dtd, sun, kitti = (by_column[n] for n in ("svhn", "dtd", "sun397", "kitti_distance"))
    assert (svhn.difference, svhn.noise, svhn.verdict) == (pytest.approx(0.6), pytest.approx(0.6), "within noise")
    assert (dtd.difference, dtd.verdict) == (pytest.approx(0.7), "beyond noise")
    assert sun.noise == pytest.approx(4.968 + 0.05, abs=1e-3)
    assert (sun.difference, sun.verdict) == (pytest.approx(-4.5), "within noise")
    assert (kitti.difference, kitti.noise, kitti.verdict) == (pytest.approx(5.0), pytest.approx(5.05), "within noise")
    assert found.reasons["no run of dmlab"] == ["LoRA: dmlab (LoRA)"]
    assert found.reasons["mean of tasks: ours lacks 15 of 19 tasks"] == ["LoRA: mean_19 (LoRA)"]
    assert len(found.reasons["no run of this method on vit is shown"]) == 18 * 22 + 19 + 2  # not all print a PPT
    assert found.reasons["nothing is printed"] == ["Full fine-tuning: ppt"]


def test_seed_noise():
    assert seed_noise(0.1, 3) == pytest.approx(4.30265 * 0.1 * (4 / 3) ** 0.5, rel=1e-5)
    assert seed_noise(1.0, 2) == pytest.approx(12.7062 * 1.5**0.5, rel=1e-5)


def test_both_averages_and_groups_of_the_study(tmp_path):
    _, by_column = compare(tmp_path, "peft_vision_vtab1k_last_epoch", *(vtab("LoRA", t, 0, v) for t, v in LORA.items()))
    # Printed: structured 60.3, mean of groups 75.24, mean of 19 72.91, 0.553 M.
    structured = (82.9 + 69.2 + 49.8 + 78.5 + 75.7 + 47.1 + 31.0 + 44.0) / 8
    natural, specialized = 556.4 / 7, 338.2 / 4
    assert by_column["Struct"].difference == pytest.approx(structured - 60.3)
    assert by_column["grp-mean"].difference == pytest.approx((structured + natural + specialized) / 3 - 75.24)
    assert by_column["mean19"].difference == pytest.approx(sum(LORA.values()) / 19 - 72.91)
    assert by_column["P(M)"].verdict == "differs"


def test_dense_tables_read_their_own_metric(tmp_path):
    own = {"suite": None, "group": None, "task": "swin-b_coco", "backbone": "swin-b_coco"}
    metrics = {"coco/bbox_mAP": 0.531, "coco/segm_mAP": 0.460}
    run = {**result("Mona", "digits", 0, 0.531, 4_162_560), **own, "metrics": metrics}
    found, by_column = compare(tmp_path, "dense_swin_in22k", run)
    assert by_column["coco_ap_box"].difference == pytest.approx(53.1 - 53.4)
    assert by_column["coco_ap_mask"].difference == pytest.approx(0)
    assert by_column["coco_ap_box"].verdict == "cannot say"  # one seed, no known re-run noise
    assert by_column["coco_swin_b_params_m"].verdict == "equal"
    assert by_column["coco_ap_mask_ppt"].ours == pytest.approx(0.46 * 0.85975, abs=1e-4)  # exp(-log10(1.416256))
    assert (
        "Mona: coco_memory_mb" in found.reasons["peak memory depends on the accelerator, the batch and what is counted"]
    )


def many(method, task, percent, parameters, shots=None, **size):
    own = {"task": task, "suite": "many_shot", "group": None, "backbone": "vit", "data_variant": "jpeg"}
    variant = {f"model.backbone.method.{key}": value for key, value in size.items()}
    variant |= {} if shots is None else {"shots": shots}
    run = result(method, "digits", 0, percent / 100, parameters, config_text=task, variant=variant)
    return {**run, **own, "methods": [{"type": method, **size}]}


def test_sizes_and_shots_find_their_own_row(tmp_path):
    """Printed of rank 8, last / best epoch: 92.43 / 92.56 on all, 79.79 / 80.36 on 500 images; of rank 2 92.00."""
    runs = [
        many("LoRA", "cifar100_full", 92.43, 294_912, rank=8),
        many("LoRA", "cifar100_full", 80.79, 294_912, shots=5, rank=8),
        many("LoRA", "cifar100_full", 90.0, 73_728, rank=2),
        many("LoRA", "cifar100_full", 90.0, 110_592, rank=3),
    ]
    found, _ = compare(tmp_path, "peft_vision_many_shot", *runs)
    seen = {(d.row, d.column): d.difference for d in found.found if d.kind == "task"}
    assert seen == {
        ("lora_8", "CIFAR-100 full"): pytest.approx(0),
        ("lora_8", "CIFAR-100 500"): pytest.approx(1.0),
        ("lora_2", "CIFAR-100 full"): pytest.approx(-2.0),
    }
    assert {d.row: d.verdict for d in found.found if d.kind == "parameters"} == {"lora_8": "equal", "lora_2": "equal"}
    (other,) = found.reasons["ours: the table has no row of this method and size"]
    assert "rank=3" in other
    assert "lora_16: CIFAR-100 full" in found.reasons["no run of this method and size on vit is shown"]


@pytest.mark.parametrize("label", [label for label, method, *_ in TABLES["peft_vision_many_shot"].rows() if method])
def test_parameters_of_the_printed_sizes_are_ours(label):
    """What the configs of the whole data sets train at the printed size, to the printed digits."""
    names = {"HoulsbyAdapter": "houlsby", "FacT-TK": "fact_tk"}
    (row,) = [row for row in TABLES["peft_vision_many_shot"].rows() if row[0] == label]
    _, method, _, cells = row
    size = {f"model.backbone.method.{key}": value for key, value in method.items() if key != "type"}
    config = f"configs/many_shot/{names.get(method['type'], method['type'].lower())}_vit.py"
    report = config_parameters(load_config(ROOT / config, options=size))
    assert f"{report.trainable_without_head / 1e6:.3f}" == cells["P(M)"]


def test_why_nothing_can_be_compared(tmp_path):
    few = vtab("LoRA", "dtd", 0, 50, variant={"shots": 5})
    found, _ = compare(tmp_path, "vtab1k_vit_b16_in21k", result("LoRA", "digits", 0, 0.9), few)
    assert found.found == []
    assert len(found.reasons["ours were trained on a few images of each class"]) == 20 * 22 + 21 - 22
    assert found.reasons["ours, mini (embedded): the table is of other tasks"] == ["LoRA"]
    found, _ = compare(tmp_path, "peft_vision_wise_curves")
    assert list(found.reasons.values()) == [["the whole table"]]
    found, _ = compare(
        tmp_path, "vtab1k_vit_b16_in21k", vtab("Mona", "dtd", 0, 50), vtab("LoRA", "dtd", 0, 5, backbone="x")
    )
    assert found.reasons["ours: the table has no row of this method"] == ["Mona on vit"]
    assert found.reasons["ours, on x: the table is of other backbones"] == ["LoRA on x"]
    rows = list(csv.DictReader(io.StringIO(differences_csv([found]))))
    assert {r["verdict"] for r in rows if r["published_row"] == "Mona on vit"} == {
        "not compared: ours: the table has no row of this method"
    }
