"""What follows from the choice of a task."""

from pathlib import Path

import pytest

from vpeft.apis.config.load import load_config
from vpeft.core.datasets.tasks import SPLITS, SUITES
from vpeft.errors import UserError

ROOT = Path(__file__).parents[3]
VIT, NANO = ROOT / "configs/vtab/lora_vit.py", ROOT / "configs/mini/lora_nano_vit.py"


CONFIGS = {
    "vtab": VIT,
    "mini": NANO,
    "mini_v2": ROOT / "configs/mini_v2/lora_nano_vit.py",
    "fgvc": ROOT / "configs/fgvc/lora_vit.py",
    "many_shot": ROOT / "configs/many_shot/lora_vit.py",
}


def steps(cfg, loader="train"):
    return [step["type"] for step in cfg[f"{loader}_dataloader"].dataset.pipeline]


@pytest.mark.parametrize(
    "task",
    [t for s in (SUITES["vtab"], SUITES["mini"], SUITES["fgvc"], SUITES["many_shot"]) for t in s.values()],
    ids=lambda t: t.name,
)
def test_class_count_and_label_safe_augmentation(task):
    cfg = load_config(CONFIGS[task.suite], task.name, {"augmentation": "crop_flip"})
    assert cfg.model.head.num_classes == task.num_classes
    assert cfg.data_preprocessor.num_classes == task.num_classes
    assert {cfg[f"{n}_dataloader"].dataset.task for n in ("train", "test")} == {task.name}
    assert ("RandomFlip" in steps(cfg)) == task.flip_safe
    assert "RandomCrop" in steps(cfg)
    assert not {"RandomFlip", "RandomCrop"} & set(steps(cfg, "test"))


def test_tasks_whose_label_a_flip_changes():
    unsafe = {task.name for task in (*SUITES["vtab"].values(), *SUITES["mini"].values()) if not task.flip_safe}
    assert unsafe == {
        "svhn",
        "dsprites_loc",
        "dsprites_ori",
        "smallnorb_azi",
        "digits",
        "sprite_location",
        "sprite_orientation",
    }


def test_normalisation_and_size_are_explicit():
    cfg = load_config(VIT, "dtd", {"normalisation": "imagenet", "image_size": 192})
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert cfg.model.backbone.img_size == 192
    (resize,) = [step for step in cfg.test_dataloader.dataset.pipeline if step["type"] == "Resize"]
    assert tuple(resize["scale"]) == (192, 192)


def test_splits():
    tuned = load_config(VIT, "dtd", {"train_split": "train800", "eval_split": "val200"})
    assert tuned.train_dataloader.dataset.split == "train800"
    assert tuned.val_dataloader.dataset.split == "val200"
    final = load_config(VIT, "dtd", {"train_split": "train800val200"})
    assert final.train_dataloader.dataset.split == "train800val200"
    assert final.test_dataloader.dataset.split == "test"
    assert final.val_dataloader is None  # its images are trained on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalisation": "imagnet"}, "unknown normalisation 'imagnet': did you mean 'imagenet'"),
        ({"image_size": 0}, "image_size=0 must be the side of the images, a whole number from 1 to 16384"),
        ({"image_size": "x"}, "image_size='x' must be"),
        ({"image_size": True}, "image_size=True must be"),
        ({"image_size": 10**6}, "image_size=1000000 must be"),
        ({"augmentation": "flipp"}, "unknown augmentation 'flipp': did you mean 'flip'"),
        ({"train_split": "train900"}, "unknown split 'train900' of suite 'vtab': did you mean 'train800'"),
        ({"suite": "vtap"}, "unknown suite 'vtap': did you mean 'vtab'"),
    ],
)
def test_unknown_choices_name_the_nearest(options, message):
    with pytest.raises(UserError, match=message):
        load_config(VIT, "dtd", options)


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ("nose-3", r"shift='nose-3': a shift is written <kind>-<severity>: did you mean 'noise'"),
        ("noise-9", "shift='noise-9': the severity must be from 1 to 5"),
        (-1, "shift=-1: a shift is written <kind>-<severity>"),
    ],
)
def test_a_shift_is_looked_at_before_training(shift, message):
    with pytest.raises(UserError, match=message):
        load_config(NANO, "digits", {"shift": shift})


def test_the_suite_decides_the_lists():
    whole = load_config(CONFIGS["many_shot"], "resisc45_full")
    assert (whole.train_dataloader.dataset.split, whole.val_dataloader) == ("trainval", None)
    birds = load_config(CONFIGS["fgvc"], "nabirds")
    assert birds.train_dataloader.dataset.split == "train"
    assert birds.val_dataloader.dataset.split == "val"  # nothing of it is trained on
    with pytest.raises(UserError, match="unknown split 'train800' of suite 'fgvc'"):
        load_config(CONFIGS["fgvc"], "nabirds", {"train_split": "train800"})
    assert set(CONFIGS) | {"real", "real_whole"} == set(SPLITS)  # those two: tests/core/datasets/real


def test_shorter_edge_and_centre():
    cfg = load_config(CONFIGS["fgvc"], "cub200")
    assert steps(cfg) == ["vpeft.LoadImage", "ResizeEdge", "RandomCrop", "RandomFlip", "PackInputs"]
    assert steps(cfg, "test") == ["vpeft.LoadImage", "ResizeEdge", "CenterCrop", "PackInputs"]
    edge, crop = cfg.test_dataloader.dataset.pipeline[1:3]
    assert (edge["scale"], edge["edge"], crop["crop_size"]) == (256, "short", 224)
    assert steps(load_config(CONFIGS["fgvc"], "cub200", {"augmentation": "flip"}))[1:3] == ["ResizeEdge", "CenterCrop"]
    with pytest.raises(UserError, match="unknown resize 'edgy': did you mean 'edge'"):
        load_config(CONFIGS["fgvc"], "cub200", {"resize": "edgy"})
