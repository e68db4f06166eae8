"""Runs of detectors, of label maps and of clips with kept features have the bits of those without."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.registry import DATASETS
from mmengine.utils import import_modules_from_strings
from safetensors.torch import load_file

from vpeft.apis.config.load import load_config
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.train import train
from vpeft.core.datasets.embedded import moving_shapes, scenes

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[3] / "configs/mini"
FAST = {
    "train_cfg.val_interval": 99,
    "default_hooks.logger.interval": 1,
    "train_dataloader.batch_size": 3,
}
EPOCHS = {**FAST, "train_cfg.max_epochs": 3}
STEPS = {**FAST, "train_cfg.max_iters": 8, "default_hooks.checkpoint.interval": 8}


def config_of(name, data, options):
    """The config of a short run on six samples drawn into ``data``."""
    with pytest.MonkeyPatch.context() as patch:
        for splits in (scenes.SPLITS, moving_shapes.SPLITS):
            for split in splits:
                patch.setitem(splits, split, 6)
        folders = {f"{part}_dataloader.dataset.data_root": str(data) for part in ("train", "val", "test")}
        cfg = load_config(CONFIGS / f"{name}.py", None, {**options, **folders})
        import_modules_from_strings(**cfg.custom_imports)
        DATASETS.build({**cfg.train_dataloader.dataset, "pipeline": []})
    return cfg


def without_chance(cfg):
    """The same, with a pipeline that draws nothing."""
    steps = [step for step in cfg.train_dataloader.dataset.pipeline if step["type"] != "RandomFlip"]
    for step in steps:
        if step["type"] == "SampleFrames":
            step["test_mode"] = True
    cfg.train_dataloader.dataset.pipeline = steps
    return cfg


def run(cfg, folder):
    """The trained tensors, the losses, and the log."""
    train(prepare(cfg, str(folder), seed=0))
    (log,) = folder.glob("*/*.log")
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    lines = map(json.loads, scalars.read_text().splitlines())
    return (
        load_file(folder / "adapter.safetensors"),
        [line["loss"] for line in lines if "loss" in line],
        log.read_text(),
    )


@pytest.mark.parametrize(
    ("name", "options", "spared"),
    [
        ("linear_nano_swin_segmentation", STEPS, False),
        ("e3va_nano_swin_segmentation", STEPS, False),
        ("linear_nano_swin_detection", EPOCHS, True),
        ("e3va_nano_swin_detection", EPOCHS, True),
        ("linear_nano_vit_video", EPOCHS, True),
        ("lst_nano_vit_video", EPOCHS, True),
    ],
)
def test_dense_and_video_runs_have_the_same_bits(name, options, spared, tmp_path):
    plain, losses, _ = run(without_chance(config_of(name, tmp_path / "data", options)), tmp_path / "plain")
    cfg = without_chance(config_of(name, tmp_path / "data", {**options, "feature_cache.limit": "200MB"}))
    kept, same_losses, log = run(cfg, tmp_path / "kept")
    assert losses == same_losses
    assert len(losses) >= 6
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[key], kept[key]) for key in plain)
    assert "images were spared" in log
    assert ("images are not read any more" in log) == spared


def test_a_flip_is_said(tmp_path):
    cfg = config_of("linear_nano_swin_segmentation", tmp_path / "data", {**STEPS, "feature_cache.limit": "200MB"})
    _, _, log = run(cfg, tmp_path / "run")
    assert "training images come out otherwise each time (random augmentation)" in log
