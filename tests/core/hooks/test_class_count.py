"""The classes of the data against those of the heads, in every family, whatever wraps the data."""

import logging

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from torch import nn
from torch.utils.data import Subset

from vpeft.apis.config.load import load_config
from vpeft.apis.run import prepare, train
from vpeft.core.datasets.embedded.mini import MiniVTAB
from vpeft.core.datasets.video.lists import VideoList
from vpeft.core.families.classes import head_counts, parts
from vpeft.core.hooks.class_count import check_class_count, count_labels
from vpeft.core.models.build import build_model
from vpeft.errors import UserError

PETS = ("cat", "dog", "emu")


class Listed(BaseDataset):
    """A data set of a user's own: what every sample is known by, and nothing else."""

    def __init__(self, infos, classes=None, **kwargs):
        self.infos = infos
        super().__init__(metainfo={} if classes is None else {"classes": classes}, serialize_data=False, **kwargs)

    def load_data_list(self):
        return [dict(info) for info in self.infos]

    def get_cat_ids(self, idx):
        return [self.get_data_info(idx)["gt_label"]]


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def labelled(*labels, key="gt_label", **kwargs):
    return Listed([{key: label, "img_path": f"{n}.png"} for n, label in enumerate(labels)], **kwargs)


def test_each_family_states_its_classes(tmp_path):
    (tmp_path / "train.csv").write_text("a.mp4,1\n")
    data = {
        "classification": (MiniVTAB("digits"), 10),
        "own names": (labelled(0, classes=PETS), 3),
        "video": (VideoList("train.csv", 4, data_root=str(tmp_path)), 4),
    }
    for name, (dataset, classes) in data.items():
        check_class_count({"head": classes}, dataset, "train_dataloader")
        with pytest.raises(UserError, match=rf"model\.head has num_classes=7, train_dataloader: .*{classes} classes"):
            check_class_count({"head": 7}, dataset, "train_dataloader")
        assert name


@pytest.mark.parametrize(
    "recipe", ["detection", "instances", "segmentation", "video"], ids=["detection", "instances", "maps", "video"]
)
def test_heads_of_the_recipes_are_found(recipe):
    """All those that predict classes, and not the proposals of a detector."""
    cfg = load_config(f"configs/mini/linear_nano_swin_{recipe}.py")
    heads = head_counts(build_model(cfg))
    expected = {
        "detection": {"bbox_head"},
        "instances": {"roi_head.bbox_head", "roi_head.mask_head"},
        "segmentation": {"decode_head"},
        "video": {"cls_head"},
    }
    for name in expected[recipe]:
        assert any(key.startswith(name) for key in heads), heads
    assert not any("rpn" in key for key in heads)
    assert len(set(heads.values())) == 1


def test_only_what_predicts_classes_counts():
    model = nn.Module()
    model.backbone, model.head, model.data_preprocessor, model.rpn_head = Head(1000), Head(3), Head(1000), Head(1)
    assert head_counts(model, [model.backbone]) == {"head": 3}
    model.language_model = nn.Identity()
    assert head_counts(model) == {}


def test_things_of_a_panoptic_data_set():
    data = labelled(0, classes=("cat", "dog", "sky"))
    data._metainfo["thing_classes"] = ("cat", "dog")
    check_class_count({"roi_head.bbox_head": 2, "fusion": 3}, data, "")
    with pytest.raises(UserError, match="num_classes=1"):
        check_class_count({"roi_head.bbox_head": 1}, data, "")


def test_one_text_is_no_tuple_of_names():
    data = labelled(0)
    data._metainfo["classes"] = "cat"
    with pytest.raises(UserError, match=r"metainfo\.classes is the text 'cat' instead of a tuple of names"):
        check_class_count({"head": 3}, data, "")


def test_wrappers_are_looked_through():
    one, two = labelled(0, 1, 1, classes=PETS), labelled(2, 1, classes=PETS)
    balanced = ClassBalancedDataset(one, 0.5)
    nested = ConcatDataset([one])
    nested.datasets = [RepeatDataset(one, 3), Subset(two, [0])]
    assert list(parts(balanced)) == [one]
    assert list(parts(nested)) == [one, two]
    with pytest.raises(UserError, match="num_classes=4, x: Listed has 3 classes \\(cat, dog, emu\\)"):
        check_class_count({"head": 4}, nested, "x")
    assert count_labels(nn.Module(), {"head": 3}, nested, "x").tolist() == [1, 3, 1]


def test_a_data_set_without_samples_is_named():
    class Empty(torch.utils.data.Dataset):
        def __len__(self):
            return 0

    with pytest.raises(UserError, match="val_dataloader: Empty has no samples"):
        check_class_count({}, Empty(), "val_dataloader")


@pytest.mark.parametrize("label", [-1, 3, 1.5, float("nan"), float("inf"), "cat", "1", None, np.float32(0.5), 10**30])
def test_junk_labels_are_named(label):
    junk = label if label is not None else [0, None]
    with pytest.raises(
        UserError, match=r"x: Listed: sample 1 \(1\.png\) has the label .* 0 to 2 \(model\.head\.num_cl"
    ):
        count_labels(nn.Module(), {"head": 3}, labelled(0, junk), "x")


@pytest.mark.parametrize("label", [2, 2.0, np.int64(2), np.array(2), torch.tensor(2), [2], (2,), np.array([2])])
def test_labels_of_all_kinds_are_counted(label):
    assert count_labels(nn.Module(), {"head": 3}, labelled(0, label), "x").tolist() == [1, 0, 1]


def test_labels_of_all_families_are_counted():
    head = {"head": 3}
    assert count_labels(nn.Module(), head, labelled([0, 2], [2], []), "x").tolist() == [1, 0, 2]
    assert count_labels(nn.Module(), head, labelled(1, 1, key="label"), "x").tolist() == [0, 2, 0]
    boxes = [[{"bbox_label": 1}, {"bbox_label": 2, "ignore_flag": 1}], [], [{"bbox_label": 0, "ignore_flag": 0}]]
    assert count_labels(nn.Module(), head, labelled(*boxes, key="instances"), "x").tolist() == [1, 1, 0]
    several = labelled(np.array([0.0, 1, 1]), key="label")
    several.multi_class = True
    assert count_labels(nn.Module(), head, several, "x").tolist() == [0, 1, 1]
    assert count_labels(nn.Module(), head, labelled({"colour": 7}), "x") is None
    assert count_labels(nn.Module(), {}, labelled(7), "x") is None


def test_test_samples_may_have_no_label():
    data = labelled(-1, 1, key="label")
    assert count_labels(nn.Module(), {"head": 3}, data, "test_dataloader").tolist() == [0, 1, 0]
    with pytest.raises(UserError, match="has the label -1"):
        count_labels(nn.Module(), {"head": 3}, data, "val_dataloader")


# Runs of a user's own config.


def folders(root, classes=PETS, split="train"):
    for label, name in enumerate(classes):
        (root / split / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (90 * label, 40, 200)).save(root / split / name / "0.png")


def own_config(tmp_path, **options):
    """What a user of mmpretrain writes, with the three lines of the README."""
    pipeline = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}]

    def loader(split):
        dataset = {"type": "CustomDataset", "data_root": str(tmp_path), "data_prefix": split, "pipeline": pipeline}
        return {"batch_size": 3, "num_workers": 0, "sampler": {"type": "DefaultSampler"}, "dataset": dataset}

    arch = {"embed_dims": 64, "num_layers": 6, "num_heads": 2, "feedforward_channels": 256}
    backbone = {
        "type": "vpeft.PEFT",
        "of": "VisionTransformer",
        "method": {"type": "LoRA", "rank": 2},
        "img_size": 32,
        "patch_size": 8,
        "arch": arch,
        "out_type": "cls_token",
        "init_cfg": {"type": "Pretrained", "checkpoint": "vpeft://nano_vit"},
    }
    head = {"type": "LinearClsHead", "num_classes": 3, "in_channels": 64, "loss": {"type": "CrossEntropyLoss"}}
    cfg = Config(
        {
            "default_scope": "mmpretrain",
            "custom_imports": {"imports": ["vpeft"]},
            "custom_hooks": [{"type": "vpeft.PEFTHook"}],
            "data_preprocessor": {"num_classes": 1000, "mean": [127.5] * 3, "std": [127.5] * 3, "to_rgb": True},
            "model": {"type": "ImageClassifier", "backbone": backbone, "head": head},
            "train_dataloader": loader("train"),
            "val_dataloader": loader("val"),
            "val_evaluator": {"type": "Accuracy"},
            "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "AdamW", "lr": 1e-3}},
            "train_cfg": {"by_epoch": True, "max_epochs": 1},
            "val_cfg": {},
        }
    )
    cfg.merge_from_dict(options)
    return prepare(cfg, str(tmp_path / "run"))


@pytest.fixture
def said(monkeypatch):
    """Warnings of a run."""
    messages = []
    handle = MMLogger.handle

    def keep(self, record):
        if record.levelno == logging.WARNING:
            messages.append(record.getMessage())
        handle(self, record)

    monkeypatch.setattr(MMLogger, "handle", keep)
    return messages


def test_a_plain_config_is_checked_before_training(tmp_path):
    folders(tmp_path)
    folders(tmp_path, PETS[:2], "val")
    with pytest.raises(
        UserError, match=r"head has num_classes=3, val_dataloader: CustomDataset has 2 classes \(cat, d"
    ):
        train(own_config(tmp_path))
    with pytest.raises(UserError, match=r"head has num_classes=5, train_dataloader: CustomDataset has 3 classes"):
        train(own_config(tmp_path, **{"model.head.num_classes": 5}))
    assert not list((tmp_path / "run").glob("*.pth"))


def test_classes_that_never_occur_are_named_once(tmp_path, said):
    folders(tmp_path)
    (tmp_path / "train.txt").write_text("train/cat/0.png 0\ntrain/dog/0.png 1\n")
    options = {"train_dataloader.dataset": {"ann_file": "train.txt", "data_prefix": "", "metainfo": {"classes": PETS}}}
    options |= {"val_dataloader": None, "val_cfg": None, "val_evaluator": None}
    train(own_config(tmp_path, **options))
    options["custom_hooks"] = [{"type": "vpeft.PEFTHook", "check_labels": False}]
    train(own_config(tmp_path, **options))  # says nothing
    (warning,) = [text for text in said if "never occur" in text]
    assert "1 of 3 classes never occur in the training data, so nothing is learned of them: emu." in warning


def test_other_names_are_said_and_another_order_is_refused(tmp_path, said):
    folders(tmp_path)
    folders(tmp_path, ("cat", "dog", "eel"), "val")
    train(own_config(tmp_path))
    (warning,) = [text for text in said if "differently" in text]
    assert warning.startswith("class 2 is 'emu' in train_dataloader and 'eel' in val_dataloader")
    order = {"val_dataloader.dataset.metainfo": {"classes": PETS[::-1]}}
    with pytest.raises(UserError, match="class 0 is 'cat' in train_dataloader and 'emu' in val_dataloader: give both"):
        train(own_config(tmp_path, **order))


# Label maps of a user's own data set, read by mmseg's own steps.


def own_maps(root, maps, **options):
    for folder in ("img", "ann"):
        (root / folder).mkdir(exist_ok=True)
    for number, values in enumerate(maps):
        Image.new("RGB", values.shape[::-1]).save(root / "img" / f"{number}.jpg")
        Image.fromarray(values).save(root / "ann" / f"{number}.png")
    init_default_scope("mmseg")
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}, {"type": "PackSegInputs"}]
    return DATASETS.build(
        {
            "type": "BaseSegDataset",
            "data_root": str(root),
            "data_prefix": {"img_path": "img", "seg_map_path": "ann"},
            "metainfo": {"classes": PETS},
            "pipeline": steps,
            "serialize_data": False,
            **options,
        }
    )


def decoder(ignore_index=255):
    head = Head(3)
    head.ignore_index = ignore_index
    return nn.ModuleDict({"decode_head": head})


BYTES = np.array([[0, 1, 1, 255], [2, 2, 2, 255]], np.uint8)


def test_label_maps_are_counted(tmp_path):
    data = own_maps(tmp_path, [BYTES, BYTES[:1]])
    assert count_labels(decoder(), {"decode_head": 3}, data, "x").tolist() == [2, 4, 3]


def test_label_maps_count_from_one_where_zero_is_ignored(tmp_path):
    maps = np.array([[0, 1, 3, 255]], np.uint8)
    data = own_maps(tmp_path, [maps], reduce_zero_label=True)
    assert count_labels(decoder(), {"decode_head": 3}, data, "x").tolist() == [1, 0, 1]
    data = own_maps(tmp_path, [maps + np.uint8(1)], reduce_zero_label=True)  # 255 becomes 0
    with pytest.raises(UserError, match=r"0\.png holds the value 4: the 3 classes are 1 to 3 \(none: 0 and 255\)"):
        count_labels(decoder(), {"decode_head": 3}, data, "x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.where(BYTES == 2, 7, BYTES).astype(np.uint8), r"1\.png holds the value 7: the 3 classes are 0 to 2"),
        (BYTES.astype(np.uint16) + 256, r"1\.png has pixels of PIL's mode 'I;16'"),
        (np.repeat(BYTES[..., None], 3, 2), r"1\.png has pixels of PIL's mode 'RGB'"),
    ],
)
def test_label_maps_of_ones_own_are_checked(tmp_path, values, message):
    data = own_maps(tmp_path, [BYTES])
    Image.fromarray(values).save(tmp_path / "ann/1.png")
    Image.new("RGB", (4, 2)).save(tmp_path / "img/1.jpg")
    data = own_maps(tmp_path, [])
    with pytest.raises(UserError, match=message):
        count_labels(decoder(), {"decode_head": 3}, data, "x")


def test_the_ignored_value_is_the_heads(tmp_path):
    data = own_maps(tmp_path, [BYTES])
    with pytest.raises(UserError, match=r"0\.png holds the value 255: the 3 classes are 0 to 2 \(none: 254\)"):
        count_labels(decoder(ignore_index=254), {"decode_head": 3}, data, "x")


def test_a_broken_label_map_is_named(tmp_path):
    data = own_maps(tmp_path, [BYTES, BYTES])
    path = tmp_path / "ann/1.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(UserError, match=r"label map .*1\.png cannot be read"):
        count_labels(decoder(), {"decode_head": 3}, data, "x")
