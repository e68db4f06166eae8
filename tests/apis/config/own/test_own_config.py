"""What config follows from a user's own data and options."""

import json

import pytest
from mmengine import Config
from support import own

import vpeft.apis.config.own.networks as networks
from vpeft.apis.config.load import load_config
from vpeft.apis.config.own import OwnOptions
from vpeft.apis.config.own.defaults import EPOCHS, numbers_of
from vpeft.apis.config.own.from_data import run_on_data
from vpeft.core.adaptation.peft_backbone import methods_of
from vpeft.core.models.build import build_model, meta_build
from vpeft.errors import UserError
from vpeft.files import read_json


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """One folder of each kind."""
    root = tmp_path_factory.mktemp("data")
    return {
        "classes": own.class_folder(root / "classes", each=5),
        "several": own.csv_file(root / "several", each=4),
        "boxes": own.coco(root / "boxes"),
        "masks": own.coco(root / "masks", masks=True),
        "maps": own.maps(root / "maps"),
        "frames": own.frames(root / "frames", each=4, count=9),
    }


def composed(data, kind, tmp_path, val=0.25, test=0.0, **options):
    if kind in ("boxes", "masks"):
        pytest.importorskip("mmdet")
    if kind == "maps":
        pytest.importorskip("mmseg")
    if kind == "frames":
        pytest.importorskip("mmaction")
    return run_on_data(data[kind], OwnOptions(**options), val_share=val, test_share=test, work_dir=str(tmp_path)).cfg


def built(cfg):
    """The model of a config, without memory."""
    with meta_build():
        return build_model(cfg)


def refused(data, kind, tmp_path, words, **options):
    with pytest.raises(UserError) as error:
        composed(data, kind, tmp_path, **options)
    said = str(error.value)
    assert "\n" not in said
    for word in (words,) if isinstance(words, str) else words:
        assert word in said, said


@pytest.mark.parametrize(
    ("kind", "metric", "base", "size"),
    [
        ("classes", "accuracy/top1", "VisionTransformer", 32),
        ("several", "multi-label/mAP", "VisionTransformer", 32),
        ("boxes", "coco/bbox_mAP", "SwinTransformer", 64),
        ("masks", "coco/segm_mAP", "SwinTransformer", 64),
        ("maps", "mIoU", "VisionTransformer", 64),
        ("frames", "acc/top1", "VisionTransformer", 32),
    ],
)
def test_defaults_of_every_family(data, tmp_path, kind, metric, base, size):
    cfg = composed(data, kind, tmp_path)
    assert cfg.main_metric == cfg.default_hooks.checkpoint.save_best == metric
    assert cfg.model.backbone.of == base
    assert methods_of(cfg)[0]["type"] == "LoRA"
    assert str(size) in str(cfg.train_dataloader.dataset.pipeline)
    assert cfg.classes == list(cfg.train_dataloader.dataset.metainfo.classes)
    assert cfg.train_dataloader.dataset.ann_file != cfg.val_dataloader.dataset.ann_file
    assert (cfg.get("test_dataloader"), cfg.eval_split) == (None, "val")
    heads = {m.num_classes for n, m in built(cfg).named_modules() if hasattr(m, "num_classes") and "rpn" not in n}
    assert heads == {len(cfg.classes)}
    # What is printed is what is trained.
    (tmp_path / "shown.py").write_text(cfg.pretty_text)
    assert (
        load_config(tmp_path / "shown.py")._cfg_dict
        == Config.fromstring(cfg.pretty_text, ".py")._cfg_dict
        == cfg._cfg_dict
    )


def test_names_of_classes_that_look_like_code(tmp_path):
    names = ('it\'s "this"', "a\\b", "苹果 #1", "$HOME")
    for number, name in enumerate(names):
        for each in range(2):
            own.save(tmp_path / "data" / name / f"{each}.png", own.picture(10 * number + each, "red")[0])
    cfg = run_on_data(tmp_path / "data", val_share=0.5, work_dir=str(tmp_path / "run")).cfg
    assert sorted(cfg.classes) == sorted(names)
    (tmp_path / "shown.py").write_text(cfg.pretty_text)
    assert load_config(tmp_path / "shown.py").classes == cfg.classes
    own.save(tmp_path / "data" / "{{fileDirname}}" / "a.png", own.picture(99, "red")[0])
    with pytest.raises(UserError, match="as the start of a placeholder: rename it"):
        run_on_data(tmp_path / "data", val_share=0.5, work_dir=str(tmp_path / "run"))


def test_the_learning_rate_is_that_of_the_methods_own_config(data, tmp_path):
    for method in ("lora", "ssf", "full"):
        cfg = composed(data, "classes", tmp_path, method=method)
        assert (
            cfg.optim_wrapper.optimizer.lr
            == load_config(f"configs/mini/{method}_nano_vit.py").optim_wrapper.optimizer.lr
        )
    assert composed(data, "classes", tmp_path, lr=0.02).optim_wrapper.optimizer.lr == 0.02


def test_a_test_part_is_tested_and_not_validated(data, tmp_path):
    cfg = composed(data, "classes", tmp_path, val=0.2, test=0.2)
    assert cfg.eval_split == "test"
    paths = [
        {row["img_path"] for row in read_json(cfg[f"{part}_dataloader"].dataset.ann_file, "list")["data_list"]}
        for part in ("train", "val", "test")
    ]
    assert [len(one) for one in paths] == [9, 3, 3]
    assert not paths[0] & paths[1]
    assert not paths[2] & (paths[0] | paths[1])


def test_options_stand_in_the_config(data, tmp_path):
    options = {"train_cfg.val_interval": 3, "model.backbone.method.rank": 2}
    cfg = composed(data, "classes", tmp_path, epochs=7, batch_size=3, seed=4, augmentation="none", options=options)
    assert (cfg.train_cfg.max_epochs, cfg.train_cfg.val_interval, cfg.param_scheduler[-1].end) == (7, 3, 7)
    assert (cfg.train_dataloader.batch_size, cfg.randomness.seed, cfg.model.backbone.method.rank) == (3, 4, 2)
    assert cfg.train_dataloader.dataset.pipeline == cfg.val_dataloader.dataset.pipeline


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "loraa"}, "--method loraa: did you mean 'lora'?"),
        ({"model": "nano_vitt"}, "did you mean 'nano_vit'?"),
        ({"model": "timm/vit_tny_patch16_224", "random_base": True}, "did you mean 'timm/vit_tiny_patch16_224'?"),
        ({"weights": "x.pth"}, "say of which network they are"),
        ({"random_base": True}, "nano_vit comes with its weights"),
        ({"image_size": 64}, "nano_vit takes images of 32 pixels"),
        ({"epochs": 0}, "--epochs 0: it must be a number above 0"),
        ({"lr": float("nan")}, "--lr nan: it must be a number above 0"),
        ({"lr": float("inf")}, "--lr inf: it must be a number above 0"),
        ({"augmentation": "mixup"}, "--augmentation mixup"),
        ({"normalisation": "imagenet"}, "nano_vit was trained with inception"),
        ({"options": {"nonsense": 1}}, "no such field"),
    ],
)
def test_what_does_not_fit(data, tmp_path, options, words):
    refused(data, "classes", tmp_path, words, **options)


def test_methods_that_a_family_does_not_have(data, tmp_path):
    refused(data, "boxes", tmp_path, "--method gps is not for detection on this model: it selects", method="gps")
    words = "--method aim is not for video on this model: it runs attention over time"
    refused(data, "frames", tmp_path, words, method="aim", model="timm/convnext_atto", random_base=True)
    refused(data, "frames", tmp_path, "give its file: --weights FILE", model="videomae_base")


@pytest.mark.parametrize(
    ("kind", "model", "targets", "shape"),
    [
        ("classes", "timm/vit_small_patch14_dinov2", ("q", "v"), 384),
        ("several", "timm/convnext_atto", ("fc1", "fc2"), 320),
        ("boxes", "timm/vit_small_patch14_dinov2", ("q", "v"), [3.5, 7, 14, 28, 56]),
        ("masks", "timm/convnext_atto", ("fc1", "fc2"), [4, 8, 16, 32, 64]),
        ("maps", "timm/vit_small_patch14_dinov2", ("q", "v"), [384] * 4),
        ("maps", "timm/convnext_atto", ("fc1", "fc2"), [40, 80, 160, 320]),
        ("classes", "torchvision/swin_t", ("q", "v"), 768),
        ("boxes", "torchvision/swin_t", ("q", "v"), [4, 8, 16, 32, 64]),
        ("maps", "torchvision/convnext_tiny", ("fc1", "fc2"), [96, 192, 384, 768]),
        ("frames", "timm/vit_small_patch14_dinov2", ("q", "v"), 384),
        ("frames", "torchvision/swin_t", ("q", "v"), 768),
    ],
)
def test_networks_of_libraries(data, tmp_path, kind, model, targets, shape):
    options = {"model.backbone.method.rank": 8}  # the smallest ConvNeXt is narrower than the table's rank
    cfg = composed(data, kind, tmp_path, model=model, random_base=True, normalisation="imagenet", options=options)
    network = built(cfg)
    backbone = network.backbone.image if kind == "frames" else network.backbone
    (method,) = backbone.network.peft_adaptation.methods.values()
    assert method.targets == targets
    preprocessing = cfg.get("data_preprocessor") or cfg.model.data_preprocessor
    assert preprocessing.mean == [123.675, 116.28, 103.53]
    if kind in ("classes", "several"):
        assert cfg.model.head.in_channels == shape
    elif kind == "frames":
        assert (cfg.model.cls_head.in_channels, cfg.optim_wrapper.optimizer.lr) == (shape, 1e-3)
        assert "test_cfg" not in cfg.model
    elif kind == "maps":
        assert cfg.model.decode_head.in_channels == shape
    else:
        assert cfg.model.rpn_head.anchor_generator.strides == shape
        assert ("mask_head" in cfg.model.roi_head) == (kind == "masks")


def test_a_network_expects_what_its_weights_were_trained_with(data, tmp_path):
    cfg = composed(data, "classes", tmp_path, model="timm/vit_small_patch14_dinov2", random_base=True)
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert "'crop_size': 518" in str(cfg.val_dataloader.dataset.pipeline)
    words = ("trained with different means", "timm/vit_small_patch16_224.", "--normalisation")
    refused(data, "classes", tmp_path, words, model="timm/vit_small_patch16_224", random_base=True)
    cfg = composed(data, "classes", tmp_path, model="timm/vit_small_patch16_224.dino", random_base=True)
    assert cfg.data_preprocessor.std == [58.395, 57.12, 57.375]
    refused(data, "classes", tmp_path, "nothing says which mean", model="hf/dinov2", random_base=True)


def test_what_torchvision_and_open_clip_state_of_their_weights(data, tmp_path):
    cfg = composed(data, "classes", tmp_path, model="torchvision/swin_t", random_base=True)
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    steps = str(cfg.val_dataloader.dataset.pipeline)
    assert "'scale': 232" in steps
    assert "'crop_size': 224" in steps
    assert "'interpolation': 'bicubic'" in steps
    pytest.importorskip("open_clip")
    cfg = composed(data, "classes", tmp_path, model="open_clip/ViT-B-32", random_base=True)
    assert cfg.data_preprocessor.mean == pytest.approx([122.770938, 116.746009, 104.093734])
    assert (cfg.model.backbone.of, cfg.model.head.in_channels) == ("open_clip/ViT-B-32", 512)
    words = ("trained with different means", "open_clip/ViT-L-14/openai", "--normalisation clip")
    refused(data, "classes", tmp_path, words, model="open_clip/ViT-L-14", random_base=True)


def test_preprocessing_beside_the_weights_of_transformers(data, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=32, patch_size=8
    )
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    stated = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5] * 3, "size": {"height": 32, "width": 32}, "resample": 2}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(stated))
    cfg = composed(data, "classes", tmp_path / "run", model="hf/google/vit", weights=str(tmp_path / "vit"))
    assert cfg.data_preprocessor.mean == [25.5, 51.0, 76.5]
    assert cfg.model.backbone.of == str(tmp_path / "vit")
    assert "'interpolation': 'bilinear'" in str(cfg.val_dataloader.dataset.pipeline)


def test_without_weights_and_network_it_is_refused(data, tmp_path, monkeypatch):
    def fetched(of):
        raise UserError("could not be fetched")

    monkeypatch.setattr(networks, "load_backbone", fetched)
    model = "timm/vit_tiny_patch16_224.augreg_in21k"
    refused(data, "classes", tmp_path, ("could not be fetched", "--weights FILE", "--random-base"), model=model)
    refused(data, "classes", tmp_path, "no such file", model=model, weights="nowhere.safetensors")


def test_the_table_of_sizes():
    assert [numbers_of("classification", n).epochs for n in (60, 100, 101, 5_000, 10**6)] == [30, 30, 20, 15, 5]
    assert [numbers_of("classification", n).batch for n in (3, 40, 500)] == [1, 10, 32]
    assert numbers_of("segmentation", 3).batch == 2
    assert numbers_of("video", 50, epochs=2, batch=4).epochs == 2
    for rows in EPOCHS.values():
        assert [most for most, _ in rows] == sorted(most for most, _ in rows)
        assert [number for _, number in rows] == sorted((number for _, number in rows), reverse=True)
