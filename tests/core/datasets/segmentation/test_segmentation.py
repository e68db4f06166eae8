"""Label maps: the public layout and the embedded scenes, and what a broken folder is told."""

import re

import numpy as np
import pytest
import torch
from mmengine import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from support.label_maps import ROOT, write_ade20k

from vpeft.core.datasets.embedded.scenes import SPLITS, draw_split
from vpeft.errors import UserError


@pytest.fixture
def ade20k(tmp_path):
    """A tiny folder in ADE20K's public layout."""
    return write_ade20k(tmp_path / "ADEChallengeData2016", train=3, val=2)


def build(loader: str, root, recipe: str = "segmentation/_base_/swin-l_ade20k.py"):
    """A data set of a recipe on another folder."""
    cfg = Config.fromfile(str(ROOT / "configs" / recipe))
    init_default_scope(cfg.default_scope)
    dataset = cfg[f"{loader}_dataloader"].dataset
    dataset.data_root = str(root)
    return DATASETS.build(dataset)


def label_map(root, split="validation", number=1):
    return root / f"annotations/{split}/ADE_{split[:3]}_{number:08d}.png"


def test_public_layout_is_read(ade20k):
    train, val = build("train", ade20k), build("val", ade20k)
    assert (len(train), len(val)) == (3, 2)
    assert len(val.metainfo["classes"]) == 150
    sample = val[0]
    stored = np.asarray(Image.open(label_map(ade20k)))
    # 0 is ignored, and class 1 of the file is 0; the map keeps its own size, the image is enlarged.
    expected = np.where(stored == 0, 255, stored.astype(int) - 1)
    assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), expected)
    assert {0, 149, 255} <= set(np.unique(expected))
    assert stored.shape == (40, 60)
    assert sample["inputs"].shape == (3, 512, 768)
    assert sample["data_samples"].ori_shape == (40, 60)
    crop = train[0]
    assert crop["inputs"].shape[1:] == crop["data_samples"].gt_sem_seg.data.shape[1:]
    assert max(crop["inputs"].shape[1:]) <= 512


def test_colours_reach_the_model_in_the_order_of_its_pretraining(ade20k):
    """PIL gives RGB, mmcv's pipelines hold BGR, the preprocessor turns it back."""
    from mmseg.registry import MODELS

    path = ade20k / "images/validation/ADE_val_00000001.jpg"
    Image.new("RGB", (60, 40), (255, 0, 0)).save(path, quality=100)
    cfg = Config.fromfile(str(ROOT / "configs/segmentation/_base_/vit-b_ade20k.py"))
    sample = build("val", ade20k)[0]
    pixels = MODELS.build(cfg.model.data_preprocessor)(pseudo_collate([sample]))["inputs"]
    torch.testing.assert_close(pixels.mean((0, 2, 3)), torch.tensor([1.0, -1.0, -1.0]), atol=0.02, rtol=0)


def broken(root, how):
    path = label_map(root)
    stored = np.asarray(Image.open(path))
    if how == "class 151":
        Image.fromarray(np.where(stored == 3, 151, stored).astype(np.uint8)).save(path)
    elif how == "other size":
        Image.fromarray(stored[:, :-1]).save(path)
    elif how == "16 bits":
        Image.fromarray(stored.astype(np.uint16) + 256).save(path)
    elif how == "colours":
        Image.fromarray(np.repeat(stored[..., None], 3, axis=2)).save(path)
    elif how == "jpeg":
        Image.fromarray(stored).save(path, format="JPEG", quality=100)
    elif how == "turned":
        picture = Image.fromarray(stored)
        exif = picture.getexif()
        exif[0x0112] = 3
        picture.save(path, exif=exif)
    elif how == "empty map":
        path.write_bytes(b"")
    elif how == "truncated map":
        path.write_bytes(path.read_bytes()[:-400])
    elif how == "no map":
        path.write_text("not an image")
    elif how == "truncated image":
        image = root / "images/validation/ADE_val_00000001.jpg"
        image.write_bytes(image.read_bytes()[:500])
    return path


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "class 151",
            r"00000001\.png holds the value 151: the 150 classes are 1 to 150 \(none: 0 and 255\)",
        ),
        ("other size", r"has 40 x 59 pixels and its image .*\.jpg 40 x 60"),
        ("16 bits", r"mode 'I;16', and one byte a pixel is needed"),
        ("colours", r"mode 'RGB', and one byte a pixel is needed"),
        ("jpeg", r"ADE_val_00000001\.png is no image without loss .*store it as PNG"),
        ("turned", r"ADE_val_00000001\.png is turned by its EXIF orientation \(3\)"),
        ("empty map", r"ADE_val_00000001\.png is empty"),
        ("truncated map", r"ADE_val_00000001\.png is truncated"),
        ("no map", r"ADE_val_00000001\.png is no image without loss"),
        ("truncated image", r"ADE_val_00000001\.jpg is truncated or no image"),
    ],
)
def test_a_broken_file_is_named(ade20k, how, message):
    broken(ade20k, how)
    data = build("val", ade20k)
    with pytest.raises(UserError, match=message):
        data[0]
    assert data[1]["inputs"].shape[0] == 3  # the other one is whole


def test_what_is_missing_is_named_before_training(ade20k, tmp_path):
    label_map(ade20k).unlink()
    with pytest.raises(UserError, match=r"1 of 2 label maps do not exist, first .*ADE_val_00000001\.png"):
        build("val", ade20k)
    for image in (ade20k / "images/training").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"images/training holds no image \*\.jpg"):
        build("train", ade20k)
    with pytest.raises(UserError, match=rf"folder {re.escape(str(tmp_path))}/none/images/training does not exist"):
        build("train", tmp_path / "none")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """The embedded scenes, drawn small."""
    root = tmp_path_factory.mktemp("embedded") / "scenes_maps"
    with pytest.MonkeyPatch.context() as patch:
        for split in SPLITS:
            patch.setitem(SPLITS, split, 4)
        build("train", root, "mini/_base_/nano_swin_segmentation.py")
    return root


def test_embedded_scenes_are_what_was_drawn(scenes):
    data = build("test", scenes, "mini/_base_/nano_swin_segmentation.py")
    assert len(data) == 4
    assert data.metainfo["classes"][0] == "background"
    assert len(data.metainfo["classes"]) == len(data.metainfo["palette"]) == 7
    for sample, scene in zip(data, draw_split("test", 4), strict=True):
        assert np.array_equal(sample["inputs"].numpy(), scene.image[..., ::-1].transpose(2, 0, 1))
        assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), scene.label_map)


def test_embedded_scenes_are_drawn_once(scenes):
    before = sorted((f, f.stat().st_mtime_ns) for f in scenes.rglob("*.png"))
    build("val", scenes, "mini/_base_/nano_vit_segmentation.py")
    assert before == sorted((f, f.stat().st_mtime_ns) for f in scenes.rglob("*.png"))
    assert len(before) == 2 * 3 * 4


def test_embedded_scenes_know_their_splits_and_classes(scenes, tmp_path):
    cfg = {"type": "vpeft.SceneMaps", "data_root": str(scenes), "split": "tset"}
    with pytest.raises(UserError, match="did you mean 'test'"):
        DATASETS.build(cfg)
    path = scenes / "annotations/val/0002.png"
    whole = path.read_bytes()
    try:
        Image.fromarray(np.full((64, 64), 7, dtype=np.uint8)).save(path)
        with pytest.raises(UserError, match=r"0002\.png holds the value 7: the 7 classes are 0 to 6 \(none: 255\)"):
            build("val", scenes, "mini/_base_/nano_swin_segmentation.py")[2]
    finally:
        path.write_bytes(whole)
