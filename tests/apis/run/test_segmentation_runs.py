"""Segmentation through the one job: train, resume, test, merge, on small drawn scenes."""

import json

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.runner.checkpoint import CheckpointLoader
from PIL import Image
from safetensors.torch import load_file
from support.label_maps import ROOT, write_ade20k

import vpeft
from vpeft.apis.config.load import build_model, load_config, plain_config
from vpeft.apis.export.merged import export_merged, load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.datasets.embedded.scenes import SPLITS

FAST = {
    "train_cfg.max_iters": 4,
    "train_cfg.val_interval": 99,
    "default_hooks.checkpoint.interval": 2,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 2,
    "log_level": "WARNING",
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Where the scenes are drawn, few of them."""
    root = tmp_path_factory.mktemp("embedded") / "scenes_maps"
    with pytest.MonkeyPatch.context() as patch:
        for split in SPLITS:
            patch.setitem(SPLITS, split, 6)
        cfg = load_config(ROOT / "configs/mini/lora_nano_swin_segmentation.py")
        vpeft.registry.DATASETS.build({**cfg.train_dataloader.dataset, "data_root": str(root), "pipeline": []})
    return root


@pytest.fixture
def config(scenes):
    """Configs of short runs on the drawn scenes."""

    def of(name, work_dir, resume=False, **options):
        folders = {f"{part}_dataloader.dataset.data_root": str(scenes) for part in ("train", "val", "test")}
        cfg = load_config(ROOT / f"configs/mini/{name}_segmentation.py", None, {**FAST, **folders, **options})
        return prepare(cfg, str(work_dir), seed=0, resume=resume)

    return of


def drop_last(work_dir, kept):
    """Make a run look as if it had been killed behind its checkpoint at ``kept`` iterations."""
    (work_dir / "adapter.safetensors").unlink()
    for file in work_dir.glob("iter_*.pth"):
        if int(file.stem.split("_")[1]) > kept:
            file.unlink()
    assert (work_dir / f"iter_{kept}.pth").exists()
    (work_dir / "last_checkpoint").write_text(str(work_dir / f"iter_{kept}.pth"))


@pytest.mark.parametrize("host", ["nano_swin", "nano_vit"])
def test_a_run_and_what_it_leaves(config, host, tmp_path):
    train(config(f"lora_{host}", tmp_path, **{"train_cfg.val_interval": 2}))
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "iter_4.pth"), "cpu")
    keys = set(checkpoint["state_dict"])
    assert keys == set(load_file(tmp_path / "adapter.safetensors"))
    assert all(".peft." in key for key in keys if key.startswith("backbone."))
    assert {key.split(".")[0] for key in keys} - {"neck"} == {"backbone", "decode_head"}
    a = run_test(config(f"lora_{host}", tmp_path / "a"), str(tmp_path / "iter_4.pth"))
    b = run_test(config(f"lora_{host}", tmp_path / "b"), str(tmp_path / "adapter.safetensors"))
    assert a["metrics"] == b["metrics"]
    written = json.loads((tmp_path / "a" / "result.json").read_text())
    assert written["main_metric"]["name"] == "mIoU"
    assert written["main_metric"]["value"] == pytest.approx(a["metrics"]["mIoU"] / 100)
    model = build_model(config(f"lora_{host}", tmp_path))
    inside = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    outside = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("backbone."))
    assert written["parameters"]["trainable_without_head"] == inside
    assert written["parameters"]["head"] == outside
    # Two factors of rank 8 for queries and two for keys or values, in every block.
    widths = [24, 24, 48, 48, 96, 96] if host == "nano_swin" else [64] * 6
    assert inside == sum(4 * width * 8 for width in widths)
    merged = export_merged(config(f"lora_{host}", tmp_path), str(tmp_path / "iter_4.pth"), str(tmp_path / "plain.pth"))
    assert merged["merged"] < 1e-10
    plain = build_model(plain_config(config(f"lora_{host}", tmp_path))).eval()
    plain.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"], strict=True)
    assert get_adaptation(plain) is None
    adapted = load_trained(config(f"lora_{host}", tmp_path), str(tmp_path / "adapter.safetensors"))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(plain(images), adapted(images), rtol=1e-4, atol=1e-5)


#: Everything that draws random numbers: flips, dropout in the head and the method, DropPath, the order of the images.
RANDOM = {
    "model.decode_head.dropout_ratio": 0.2,
    "model.backbone.drop_path_rate": 0.3,
    "model.backbone.method.drop": 0.2,
    "train_cfg.max_iters": 6,
}


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 2),
        ({"train_cfg.val_interval": 2}, 4),
        ({"train_dataloader.num_workers": 2, **{"train_dataloader.worker_init_fn": {"type": "vpeft_keep_seed"}}}, 4),
    ],
    ids=["plain", "validated", "workers"],
)
def test_resume_by_iterations_is_bit_equal(config, options, kept, tmp_path):
    name, options = "adaptformer_nano_swin", {**RANDOM, "default_hooks.checkpoint.max_keep_ckpts": 9, **options}
    whole = train(config(name, tmp_path, **options))
    drop_last(tmp_path, kept)
    resumed = train(config(name, tmp_path, resume=True, **options))
    assert resumed.iter == whole.iter == 6
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = train(config(name, tmp_path / "other", **{**options, "default_hooks.checkpoint.interval": 3}))
    assert not all(torch.equal(a[key], value) for key, value in other.model.state_dict().items())


def test_sliding_and_whole_windows(config, tmp_path):
    """A window as large as the image is the whole image; smaller ones give every pixel a class too."""
    cfg = config("lora_nano_vit", tmp_path)
    model = build_model(cfg)
    model.init_weights()
    model.eval()
    images = torch.randn(1, 3, 64, 64)
    whole = model.predict(images)[0]
    model.test_cfg = Config({"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)})
    assert torch.equal(model.predict(images)[0].seg_logits.data, whole.seg_logits.data)
    model.test_cfg = Config({"mode": "slide", "crop_size": (48, 48), "stride": (16, 16)})
    slid = model.predict(images)[0]
    assert slid.seg_logits.data.shape == (7, 64, 64)
    assert not torch.equal(slid.seg_logits.data, whole.seg_logits.data)
    options = {f"model.test_cfg.{key}": value for key, value in model.test_cfg.items()}
    train(config("lora_nano_vit", tmp_path, **{"train_cfg.max_iters": 2, **options}))
    result = run_test(config("lora_nano_vit", tmp_path, **options), str(tmp_path / "iter_2.pth"))
    assert 0 < result["metrics"]["mIoU"] < 100


@pytest.mark.parametrize("classes", [6, 8])
def test_training_a_head_of_another_class_count_is_refused(config, classes, tmp_path):
    cfg = config("lora_nano_swin", tmp_path, **{"model.decode_head.num_classes": classes})
    with pytest.raises(vpeft.UserError, match=rf"decode_head has num_classes={classes}, \w+: SceneMaps has 7 classes"):
        train(cfg)
    assert not list(tmp_path.glob("iter_*"))


def test_testing_refuses_other_classes_and_values_beyond_them(config, scenes, tmp_path):
    train(config("lora_nano_swin", tmp_path))
    checkpoint = str(tmp_path / "iter_4.pth")
    cfg = config("lora_nano_swin", tmp_path)
    cfg.test_dataloader.dataset.metainfo = {"classes": ("background", "red")}
    with pytest.raises(vpeft.UserError, match=r"num_classes=7, \w+: SceneMaps has 2 classes"):
        run_test(cfg, checkpoint)
    path = scenes / "annotations/test/0003.png"
    whole = path.read_bytes()
    try:
        Image.fromarray(np.full((64, 64), 9, dtype=np.uint8)).save(path)
        with pytest.raises(vpeft.UserError, match=r"test/0003\.png holds the value 9"):
            run_test(config("lora_nano_swin", tmp_path), checkpoint)
    finally:
        path.write_bytes(whole)
    assert not (tmp_path / "result.json").exists()


#: The ADE20K recipe made small enough to run: its pipelines, both heads, schedule and evaluation stay.
SMALL = {
    "model.backbone.method.rank": 8,
    "model.backbone.embed_dims": 24,
    "model.backbone.depths": [1, 1, 2, 1],
    "model.backbone.num_heads": [1, 2, 4, 8],
    "model.data_preprocessor.size": (64, 64),
    "model.decode_head.in_channels": [24, 48, 96, 192],
    "model.decode_head.channels": 16,
    "model.auxiliary_head.in_channels": 96,
    "model.auxiliary_head.channels": 16,
    "train_dataloader.num_workers": 0,
    "val_dataloader.num_workers": 0,
    "test_dataloader.num_workers": 0,
    "train_dataloader.dataset.pipeline.2.scale": (256, 64),
    "train_dataloader.dataset.pipeline.3.crop_size": (64, 64),
    "val_dataloader.dataset.pipeline.1.scale": (256, 64),
    "test_dataloader.dataset.pipeline.1.scale": (256, 64),
}


def test_the_ade20k_recipe_runs(tmp_path):
    data, weights = write_ade20k(tmp_path / "data", train=4, val=2), str(tmp_path / "swin.pth")
    folders = {f"{part}_dataloader.dataset.data_root": str(data) for part in ("train", "val", "test")}
    options = {**FAST, **SMALL, **folders, "model.backbone.init_cfg.checkpoint": weights, "train_cfg.val_interval": 2}

    def config(**more):
        cfg = load_config(ROOT / "configs/segmentation/lora_swin-l_ade20k.py", None, {**options, **more})
        return prepare(cfg, str(tmp_path / "run"), seed=0)

    torch.save({"state_dict": build_model(plain_config(config())).backbone.state_dict()}, weights)
    runner = train(config())
    # The first step is taken at a millionth of the rate, and 1500 lead up to it.
    assert runner.optim_wrapper.get_lr()["lr"][0] == pytest.approx(6e-5 * (1e-6 + 4 * (1 - 1e-6) / 1500), rel=1e-2)
    decayed = {group["weight_decay"] for group in runner.optim_wrapper.optimizer.param_groups}
    assert decayed == {0.0, 0.01}
    result = run_test(config(), str(tmp_path / "run/iter_4.pth"))
    assert 0 <= result["metrics"]["mIoU"] < 100
    heads = [*runner.model.decode_head.parameters(), *runner.model.auxiliary_head.parameters()]
    assert result["parameters"]["head"] == sum(p.numel() for p in heads)
    with pytest.raises(vpeft.UserError, match=r"model\.auxiliary_head has num_classes=19, \w+: ADE20K has 150 classes"):
        train(config(**{"model.auxiliary_head.num_classes": 19}))


#: A user's own config, as mmseg's documentation has them.
OWN = """
default_scope = "mmseg"
norm_cfg = dict(type="BN", requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True, size=(32, 32)),
    backbone=dict(
        type="SwinTransformer", embed_dims=24, patch_size=2, strides=(2, 2, 2), depths=[2, 2, 2],
        num_heads=[1, 2, 4], window_size=4, out_indices=(0, 1, 2),
        init_cfg=dict(type="Pretrained", checkpoint="{weights}")),
    decode_head=dict(
        type="FCNHead", in_channels=96, in_index=2, channels=16, num_convs=1, concat_input=False, num_classes=150,
        norm_cfg=norm_cfg, loss_decode=dict(type="CrossEntropyLoss")),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"))
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(32, 32)), dict(type="PackSegInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="Resize", scale=(32, 32)),
    dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ADE20KDataset", data_root="{data}", pipeline=train_pipeline,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training")))
test_dataloader = dict(
    batch_size=1, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ADE20KDataset", data_root="{data}", pipeline=test_pipeline, test_mode=True,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation")))
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_cfg = dict()
train_cfg = dict(type="IterBasedTrainLoop", max_iters=2)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
default_hooks = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=2))
"""
#: Three keys beside those that are there (docs/segmentation.md).
THREE_LINES = """
_base_ = ["own.py"]
custom_imports = dict(imports=["vpeft"])
model = dict(backbone=dict(type="vpeft.PEFT", of="SwinTransformer", method=dict(type="LoRA", rank=8)))
custom_hooks = [dict(type="vpeft.PEFTHook")]
"""


def test_a_users_own_config_in_three_lines(config, tmp_path):
    data, weights = write_ade20k(tmp_path / "data", train=4, val=2), tmp_path / "swin.pth"
    backbone = build_model(plain_config(config("lora_nano_swin", tmp_path))).backbone
    torch.save({"state_dict": backbone.state_dict()}, weights)
    (tmp_path / "own.py").write_text(OWN.format(data=data, weights=weights))
    (tmp_path / "peft.py").write_text(THREE_LINES)
    run = tmp_path / "run"
    trained = train(prepare(load_config(tmp_path / "peft.py"), str(run), seed=0)).model.backbone.state_dict()
    own = {key: value for key, value in trained.items() if ".peft." not in key}
    assert own.keys() == backbone.state_dict().keys()
    assert all(torch.equal(own[key], value) for key, value in backbone.state_dict().items())
    result = run_test(prepare(load_config(tmp_path / "peft.py"), str(run)), str(run / "iter_2.pth"))
    assert 0 <= result["metrics"]["mIoU"] < 100
    assert result["parameters"]["trainable_without_head"] == sum(4 * w * 8 for w in (24, 24, 48, 48, 96, 96))
    assert result["parameters"]["head"] > 150 * 16


def test_batch_norm_over_processes_is_left_out_without_gpus(tmp_path, monkeypatch):
    name = ROOT / "configs/segmentation/lora_swin-l_ade20k.py"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert prepare(load_config(name), str(tmp_path), launcher="pytorch").get("sync_bn") is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert prepare(load_config(name), str(tmp_path), launcher="pytorch").sync_bn == "torch"
