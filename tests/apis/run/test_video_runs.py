"""Recognisers through the one job: train, resume, test, merge, two processes, on a few drawn clips."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import load_file

from vpeft.algorithms.specification.gps import two_views
from vpeft.apis.config.load import build_model, load_config, plain_config
from vpeft.apis.export.merged import export_merged, load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import find_adaptation, get_adaptation
from vpeft.core.adaptation.training.selection_data import selection_batches
from vpeft.core.datasets.embedded.moving_shapes import SPLITS, ensure_moving
from vpeft.core.models.outputs import class_scores, pooled_features
from vpeft.registry import HOOKS

ROOT = Path(__file__).parents[3]
FAST = {
    "train_cfg.max_epochs": 2,
    "train_cfg.val_interval": 9,
    "default_hooks.checkpoint.interval": 1,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 6,
    "log_level": "WARNING",
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with twelve clips a split."""
    with pytest.MonkeyPatch.context() as patch:
        for split in SPLITS:
            patch.setitem(SPLITS, split, 12)
        return ensure_moving(tmp_path_factory.mktemp("embedded") / "moving_shapes")


def options_of(clips):
    return {**FAST, **{f"{part}_dataloader.dataset.data_root": str(clips) for part in ("train", "val", "test")}}


@pytest.fixture
def config(clips):
    def of(name, work_dir, resume=False, **options):
        cfg = load_config(ROOT / f"configs/mini/{name}_video.py", None, {**options_of(clips), **options})
        return prepare(cfg, str(work_dir), seed=0, resume=resume)

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("host", "widths"), [("nano_vit", 6 * (64,)), ("nano_swin", (24, 24, 48, 48, 96, 96))])
def test_a_run_and_what_it_leaves(config, host, widths, tmp_path):
    name = f"lora_{host}"
    train(config(name, tmp_path, **{"train_cfg.val_interval": 2}))
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_2.pth"), "cpu")
    keys = set(checkpoint["state_dict"])
    assert keys == set(load_file(tmp_path / "adapter.safetensors"))
    assert all(".peft." in key for key in keys if key.startswith("backbone."))
    assert {key.split(".")[0] for key in keys} == {"backbone", "cls_head"}
    a = run_test(config(name, tmp_path / "a"), str(tmp_path / "epoch_2.pth"))
    b = run_test(config(name, tmp_path / "b"), str(tmp_path / "adapter.safetensors"))
    assert a["metrics"] == b["metrics"]
    written = json.loads((tmp_path / "a" / "result.json").read_text())
    assert written["main_metric"] == {"name": "acc/top1", "value": a["metrics"]["acc/top1"]}
    assert written["parameters"]["trainable_without_head"] == sum(4 * width * 8 for width in widths)
    assert written["parameters"]["head"] == (widths[-1] + 1) * 6

    done = export_merged(config(name, tmp_path), str(tmp_path / "epoch_2.pth"), str(tmp_path / "plain.pth"))
    assert done["merged"] < 1e-10
    plain = build_model(plain_config(config(name, tmp_path))).eval()
    plain.load_state_dict(torch.load(tmp_path / "plain.pth", weights_only=True)["state_dict"], strict=True)
    assert get_adaptation(plain) is None
    adapted = load_trained(config(name, tmp_path), str(tmp_path / "adapter.safetensors"))
    x = torch.randn(2, 1, 3, 8, 32, 32)
    scores = [model(x, mode="tensor", stage="head") for model in (plain, adapted)]
    assert scores[0].shape == (2, 6)
    torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_resume_is_bit_equal(config, tmp_path):
    """Clips start at random frames and DropPath is on: both follow from seed and epoch."""
    options = {"default_hooks.checkpoint.max_keep_ckpts": 9, "train_cfg.max_epochs": 3}
    options["model.backbone.drop_path_rate"] = 0.3
    whole = train(config("adaptformer_nano_vit", tmp_path, **options))
    for epoch in (2, 3):
        (tmp_path / f"epoch_{epoch}.pth").unlink()
    (tmp_path / "last_checkpoint").write_text(str(tmp_path / "epoch_1.pth"))
    resumed = train(config("adaptformer_nano_vit", tmp_path, resume=True, **options))
    assert resumed.iter == whole.iter == 6
    a, b = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    other = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["state_dict"]
    assert not all(torch.equal(a[key], value) for key, value in other.items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sct_nano_vit", "gps_nano_swin"])
def test_methods_that_select_from_the_data(config, name, tmp_path):
    runner = train(config(name, tmp_path, **{"train_cfg.max_epochs": 1}))
    assert not find_adaptation(runner.model).waits_for_selection
    selected = {key: value for key, value in runner.model.state_dict().items() if ".index" in key}
    placeholder = [torch.equal(v, torch.arange(v.shape[-1]).expand_as(v)) for v in selected.values()]
    assert selected
    assert not all(placeholder)
    stored = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")["state_dict"]
    assert all(torch.equal(stored[key], value) for key, value in selected.items())
    result = run_test(config(name, tmp_path), str(tmp_path / "adapter.safetensors"))
    assert result["parameters"]["trainable_without_head"] > 0


@pytest.mark.parametrize("host", ["nano_vit", "nano_swin"])
def test_what_a_selection_reads(config, host, tmp_path):
    """Labels of every training clip, features and scores: the mean over the clips of a video."""
    cfg = config(f"linear_{host}", tmp_path)
    model = build_model(cfg)
    model.init_weights()
    model.eval()
    batches = list(selection_batches(cfg, model))
    assert [tuple(x.shape) for x, _ in batches] == [(6, 1, 3, 8, 32, 32)] * 2
    labels = torch.cat([y for _, y in batches])
    assert torch.bincount(labels).tolist() == [2] * 6
    assert labels.tolist() != sorted(labels.tolist())

    one, two = batches[0][0], batches[1][0]
    with torch.no_grad():
        views = [f(model, torch.cat((one, two), 1)) for f in (pooled_features, class_scores)]
        alone = [(f(model, one) + f(model, two)) / 2 for f in (pooled_features, class_scores)]
        feature = model.backbone(one[:, 0])
        feature = feature.mean((2, 3, 4)) if host == "nano_swin" else feature
    assert views[0].shape == (6, 64 if host == "nano_vit" else 96)
    assert views[1].shape == (6, 6)
    for a, b in zip(views, alone, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(pooled_features(model, one), feature)
    torch.testing.assert_close(class_scores(model, one), model.cls_head.fc_cls(feature))


def test_views_of_a_clip_crop_all_frames_alike():
    x = torch.randn(3, 3, 16, 16)
    still = x[:, None, :, None].expand(3, 1, 3, 4, 16, 16)
    colours = torch.tensor([120.0, 110.0, 100.0]), torch.tensor([60.0, 50.0, 40.0])
    drawn = []
    for y in (x, still):
        torch.manual_seed(0)
        drawn.append(two_views(y, colours))
    images, clips = drawn
    for one, two in zip(images, clips, strict=True):
        torch.testing.assert_close(one[:, None, :, None].expand_as(two), two)
    assert not torch.equal(*images)


@HOOKS.register_module()
class KeepVideoLossesHook(Hook):
    """Keeps the names of every iteration's losses."""

    seen: list = []

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self.seen.append(set(outputs))


@pytest.mark.slow
def test_the_losses_of_a_method_are_added(config, tmp_path):
    cfg = config("dyt_nano_vit", tmp_path, **{"train_cfg.max_epochs": 1})
    cfg.custom_hooks.append({"type": "vpeft.KeepVideoLossesHook"})
    KeepVideoLossesHook.seen.clear()
    train(cfg)
    assert len(KeepVideoLossesHook.seen) == 2
    assert all(s >= {"loss_cls", "loss_complete", "loss_rate", "loss_divergence"} for s in KeepVideoLossesHook.seen)


def tool(clips, *args, launch=(), **options):
    """A tool in a process of its own, with settings by dotted key."""
    settings = [f"{key}={value}" for key, value in {**options_of(clips), **options}.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launch, *args, "--cfg-options", *settings]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_two_processes(clips, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    args = [
        "tools/train.py",
        "configs/mini/lora_nano_vit_video.py",
        "--launcher",
        "pytorch",
        "--work-dir",
        str(tmp_path),
    ]
    done = tool(clips, *args, launch=launch, **{"train_cfg.max_epochs": 1, "train_dataloader.batch_size": 3})
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), "cpu")
    assert checkpoint["meta"]["iter"] == 2  # twelve clips, two processes, three a step
    ups = [value for key, value in checkpoint["state_dict"].items() if ".up." in key]
    assert len(ups) == 12
    assert all(value.any() for value in ups)  # they start at zero


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_video_ends_a_run_in_one_line(clips, tmp_path, workers):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes((clips / "train" / "0000.mp4").read_bytes()[:3000])
    (tmp_path / "train.csv").write_text(f"{bad},0\n" * 6)
    options = {"train_dataloader.dataset.data_root": tmp_path, "train_dataloader.dataset.name": "own"}
    options["train_dataloader.num_workers"] = workers
    done = tool(
        clips, "tools/train.py", "configs/mini/lora_nano_vit_video.py", "--work-dir", str(tmp_path / "run"), **options
    )
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert line.startswith(f"error: own: video {bad} is truncated or no video")


#: A user's own config, as mmaction2's documentation has them.
OWN = """
default_scope = "mmaction"
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="VisionTransformer", img_size=32, patch_size=8, embed_dims=32, depth=2, num_heads=2, mlp_ratio=4,
        qkv_bias=True, num_frames=8, norm_cfg=dict(type="LN", eps=1e-6),
        init_cfg=dict(type="Pretrained", checkpoint="{weights}")),
    cls_head=dict(type="TimeSformerHead", num_classes=6, in_channels=32, average_clips="prob"),
    data_preprocessor=dict(
        type="ActionDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        format_shape="NCTHW"))
train_pipeline = [
    dict(type="DecordInit"), dict(type="SampleFrames", clip_len=8, frame_interval=1, num_clips=1),
    dict(type="DecordDecode"), dict(type="Resize", scale=(-1, 32)), dict(type="Flip", flip_ratio=0.5),
    dict(type="FormatShape", input_format="NCTHW"), dict(type="PackActionInputs")]
test_pipeline = [
    dict(type="DecordInit"), dict(type="SampleFrames", clip_len=8, num_clips=2, test_mode=True),
    dict(type="DecordDecode"), dict(type="Resize", scale=(-1, 32)), dict(type="ThreeCrop", crop_size=32),
    dict(type="FormatShape", input_format="NCTHW"), dict(type="PackActionInputs")]
train_dataloader = dict(
    batch_size=6, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="VideoDataset", ann_file="{data}/train.csv", delimiter=",", data_prefix=dict(video="{data}"),
                 pipeline=train_pipeline))
test_dataloader = dict(
    batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="VideoDataset", ann_file="{data}/test.csv", delimiter=",", data_prefix=dict(video="{data}"),
                 pipeline=test_pipeline, test_mode=True))
test_evaluator = dict(type="AccMetric")
test_cfg = dict(type="TestLoop")
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
"""
#: Three keys beside those that are there (docs/video.md).
THREE_LINES = """
_base_ = ["own.py"]
custom_imports = dict(imports=["vpeft"])
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="LoRA", rank=8)))
custom_hooks = [dict(type="vpeft.PEFTHook")]
"""


@pytest.mark.slow
def test_a_users_own_config_in_three_lines(clips, tmp_path):
    (tmp_path / "own.py").write_text(OWN.replace("{data}", str(clips)).replace("{weights}", str(tmp_path / "vit.pth")))
    (tmp_path / "peft.py").write_text(THREE_LINES)
    plain = build_model(load_config(tmp_path / "own.py")).backbone
    torch.save({"state_dict": plain.state_dict()}, tmp_path / "vit.pth")
    run = tmp_path / "run"
    trained = train(prepare(load_config(tmp_path / "peft.py"), str(run), seed=0)).model.backbone.state_dict()
    own = {key: value for key, value in trained.items() if ".peft." not in key}
    assert own.keys() == plain.state_dict().keys()
    assert all(torch.equal(own[key], value) for key, value in plain.state_dict().items())
    assert all(value.any() for key, value in trained.items() if ".up." in key)
    result = run_test(prepare(load_config(tmp_path / "peft.py"), str(run)), str(run / "epoch_1.pth"))
    assert 0 <= result["metrics"]["acc/top1"] <= 1
    assert result["parameters"]["trainable_without_head"] == 2 * 4 * 32 * 8
    assert result["parameters"]["head"] == 6 * 33


def test_the_learning_rate_of_the_real_schedule(config, tmp_path):
    """0.1 per 256 clips of a step, which the Runner scales; no decay."""
    cfg = config("lora_nano_vit", tmp_path)
    real = load_config(ROOT / "configs/video/lora_vit-b_ssv2.py")
    cfg.optim_wrapper, cfg.auto_scale_lr = real.optim_wrapper, real.auto_scale_lr
    cfg.train_dataloader.batch_size = 64
    runner = Runner.from_cfg(cfg)
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.scale_lr(wrapper, runner.auto_scale_lr)
    groups = wrapper.optimizer.param_groups
    assert {group["lr"] for group in groups} == {0.1 * 64 / 256}
    assert {group["weight_decay"] for group in groups} == {0.0}
    assert {group["momentum"] for group in groups} == {0.9}
