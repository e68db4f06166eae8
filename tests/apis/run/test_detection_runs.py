"""Detectors through the one job: train, resume, test, merge, two processes, on a few drawn scenes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import import_modules_from_strings
from safetensors.torch import load_file

import vpeft
from vpeft.apis.config.load import build_model, load_config, plain_config
from vpeft.apis.export.merged import export_merged, load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.datasets.embedded.scenes import CLASSES, SPLITS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
RECIPES = ["detection", "instances"]
FAST = {
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 9,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 3,
    "log_level": "WARNING",
}
METRIC = {"detection": "pascal_voc/mAP", "instances": "coco/segm_mAP"}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Where the scenes of both recipes are drawn, six a split."""
    root = tmp_path_factory.mktemp("embedded")
    with pytest.MonkeyPatch.context() as patch:
        for split in SPLITS:
            patch.setitem(SPLITS, split, 6)
        for recipe in RECIPES:
            cfg = load_config(ROOT / f"configs/mini/lora_nano_swin_{recipe}.py")
            import_modules_from_strings(**cfg.custom_imports)
            DATASETS.build({**cfg.train_dataloader.dataset, "data_root": str(root / recipe), "pipeline": []})
    return root


def options_of(scenes, recipe):
    """Settings of a short run on the drawn scenes."""
    options = {f"{part}_dataloader.dataset.data_root": str(scenes / recipe) for part in ("train", "val", "test")}
    if recipe == "instances":
        for part in ("val", "test"):
            options[f"{part}_evaluator.ann_file"] = str(scenes / recipe / f"annotations/instances_{part}.json")
    return {**FAST, **options}


@pytest.fixture
def config(scenes):
    def of(recipe, work_dir, method="lora", resume=False, **options):
        options = {**options_of(scenes, recipe), **options}
        cfg = load_config(ROOT / f"configs/mini/{method}_nano_swin_{recipe}.py", None, options)
        return prepare(cfg, str(work_dir), seed=0, resume=resume)

    return of


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_and_what_it_leaves(config, recipe, tmp_path):
    train(config(recipe, tmp_path, **{"train_cfg.val_interval": 2}))
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_2.pth"), "cpu")
    keys = set(checkpoint["state_dict"])
    assert keys == set(load_file(tmp_path / "adapter.safetensors"))
    assert all(".peft." in key for key in keys if key.startswith("backbone."))
    heads = {"bbox_head"} if recipe == "detection" else {"rpn_head", "roi_head"}
    assert {key.split(".")[0] for key in keys} == {"backbone", "neck"} | heads
    # Detections of every score, so that the AP is no plain zero.
    loose = {"model.test_cfg.score_thr" if recipe == "detection" else "model.test_cfg.rcnn.score_thr": 0.0}
    a = run_test(config(recipe, tmp_path / "a", **loose), str(tmp_path / "epoch_2.pth"))
    b = run_test(config(recipe, tmp_path / "b", **loose), str(tmp_path / "adapter.safetensors"))
    assert a["metrics"] == b["metrics"]
    written = json.loads((tmp_path / "a" / "result.json").read_text())
    assert written["main_metric"] == {"name": METRIC[recipe], "value": a["metrics"][METRIC[recipe]]}
    model = build_model(config(recipe, tmp_path))
    inside = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    outside = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("backbone."))
    assert written["parameters"]["trainable_without_head"] == inside
    assert written["parameters"]["head"] == outside
    assert inside == sum(4 * width * 8 for width in (24, 24, 48, 48, 96, 96))

    merged = export_merged(config(recipe, tmp_path), str(tmp_path / "epoch_2.pth"), str(tmp_path / "plain.pth"))
    assert merged["merged"] < 1e-10
    plain = build_model(plain_config(config(recipe, tmp_path))).eval()
    plain.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"], strict=True)
    assert get_adaptation(plain) is None
    adapted = load_trained(config(recipe, tmp_path), str(tmp_path / "adapter.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    for one, two in zip(plain.extract_feat(images), adapted.extract_feat(images), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_resume_is_bit_equal(config, recipe, tmp_path):
    options = {"default_hooks.checkpoint.max_keep_ckpts": 9, "train_cfg.max_epochs": 3}
    options["model.backbone.drop_path_rate"] = 0.3
    whole = train(config(recipe, tmp_path, "adaptformer", **options))
    (tmp_path / "epoch_3.pth").unlink()
    (tmp_path / "epoch_2.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    resumed = train(config(recipe, tmp_path, "adaptformer", resume=True, **options))
    assert resumed.iter == whole.iter == 6
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["state_dict"]
    assert not all(torch.equal(a[key], value) for key, value in other.items())


@pytest.mark.parametrize("stage", ["train", "test"])
def test_a_head_of_another_class_count_is_refused(config, stage, tmp_path):
    options = {"model.bbox_head.num_classes": 7}
    if stage == "train":
        with pytest.raises(
            vpeft.UserError, match=r"bbox_head has num_classes=7, \w+_dataloader: SceneVOC has 6 classes"
        ):
            train(config("detection", tmp_path, **options))
        assert not list(tmp_path.glob("epoch_*"))
        return
    model = build_model(config("detection", tmp_path, **options))
    model.init_weights()
    vpeft.save_adapter(model, tmp_path / "adapter.safetensors")
    with pytest.raises(vpeft.UserError, match=r"bbox_head has num_classes=7, \w+_dataloader: SceneVOC has 6 classes"):
        run_test(config("detection", tmp_path, **options), str(tmp_path / "adapter.safetensors"))
    assert not (tmp_path / "result.json").exists()


def test_two_processes_train_a_detector(scenes, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {**options_of(scenes, "detection"), "train_cfg.max_epochs": 1, "train_dataloader.batch_size": 2}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    config = "configs/mini/lora_nano_swin_detection.py"
    tool = ["tools/train.py", config, "--launcher", "pytorch", "--work-dir", str(tmp_path), "--cfg-options"]
    settings = [f"{key}={value}" for key, value in options.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launch, *tool, *settings], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")
    assert checkpoint["meta"]["iter"] == 2  # six images, two processes, two a step
    ups = [value for key, value in checkpoint["state_dict"].items() if ".up." in key]
    assert len(ups) == 12
    assert all(value.any() for value in ups)  # they start at zero


#: A user's own config, as mmdet's documentation has them.
OWN = """
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True,
        pad_size_divisor=32),
    backbone=dict(
        type="SwinTransformer", embed_dims=24, patch_size=2, strides=(2, 2, 2), depths=(2, 2, 2),
        num_heads=(1, 2, 4), window_size=4, out_indices=(1, 2),
        init_cfg=dict(type="Pretrained", checkpoint="{weights}")),
    neck=dict(type="FPN", in_channels=[48, 96], out_channels=16, num_outs=2),
    bbox_head=dict(
        type="RetinaHead", num_classes=6, in_channels=16, stacked_convs=1, feat_channels=16,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
                              strides=[4, 8]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[.0, .0, .0, .0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0)),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=100, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5),
                  max_per_img=20))
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(64, 64), keep_ratio=True), dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"))]
metainfo = dict(classes={classes})
train_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset", data_root="{data}", ann_file="annotations/instances_train.json", metainfo=metainfo,
        data_prefix=dict(img="train/"), pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset", data_root="{data}", ann_file="annotations/instances_test.json", metainfo=metainfo,
        data_prefix=dict(img="test/"), test_mode=True, pipeline=test_pipeline))
test_evaluator = dict(type="CocoMetric", ann_file="{data}/annotations/instances_test.json", metric="bbox")
test_cfg = dict()
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
"""
#: Three keys beside those that are there (docs/detection.md).
THREE_LINES = """
_base_ = ["own.py"]
custom_imports = dict(imports=["vpeft"])
model = dict(backbone=dict(type="vpeft.PEFT", of="SwinTransformer", method=dict(type="LoRA", rank=8)))
custom_hooks = [dict(type="vpeft.PEFTHook")]
"""


def test_a_users_own_config_in_three_lines(config, scenes, tmp_path):
    weights = tmp_path / "swin.pth"
    backbone = build_model(plain_config(config("detection", tmp_path))).backbone
    torch.save({"state_dict": backbone.state_dict()}, weights)
    own = OWN.replace("{classes}", str(CLASSES)).replace("{data}", str(scenes / "instances"))
    (tmp_path / "own.py").write_text(own.replace("{weights}", str(weights)))
    (tmp_path / "peft.py").write_text(THREE_LINES)
    run = tmp_path / "run"
    trained = train(prepare(load_config(tmp_path / "peft.py"), str(run), seed=0)).model.backbone.state_dict()
    own = {key: value for key, value in trained.items() if ".peft." not in key}
    assert own.keys() == backbone.state_dict().keys()
    assert all(torch.equal(own[key], value) for key, value in backbone.state_dict().items())
    result = run_test(prepare(load_config(tmp_path / "peft.py"), str(run)), str(run / "epoch_1.pth"))
    assert 0 <= result["metrics"]["coco/bbox_mAP"] < 1
    assert result["parameters"]["trainable_without_head"] == sum(4 * w * 8 for w in (24, 24, 48, 48, 96, 96))
    assert result["parameters"]["head"] > 6 * 16
