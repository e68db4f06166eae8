"""Networks of timm in models of mmdet, mmseg and mmpretrain: from a config to a merged model."""

from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import DATASETS, MODELS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import import_modules_from_strings
from safetensors.torch import load_file

import vpeft
from vpeft.apis.config.load import build_model, load_config, plain_config
from vpeft.apis.export.merged import export_merged, load_trained
from vpeft.apis.run.prepare import prepare
from vpeft.apis.run.test import test as run_test
from vpeft.apis.run.train import train
from vpeft.core.adaptation.find import find_adaptation
from vpeft.core.datasets.embedded.scenes import SPLITS

BASE = Path(__file__).parents[3] / "configs/_base_"
#: A recipe's model on the embedded scenes, with a tiny network in the place of its own.
RECIPES = {
    "segmentation": """
_base_ = [
    "{base}/models/segmentation/upernet_dinov3_base.py",
    "{base}/datasets/segmentation/scene_maps.py",
    "{base}/schedules/nano_segmentation.py",
    "{base}/runtimes/segmentation.py",
]
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(of="timm/test_vit", weights="{weights}", out_indices=(1, 3, 4, 5)),
    neck=dict(in_channels=[64] * 4, out_channels=32),
    decode_head=dict(in_channels=[32] * 4, channels=16, num_classes=7, norm_cfg=dict(type="GN", num_groups=4)),
    auxiliary_head=dict(in_channels=32, channels=16, num_classes=7),
)
sync_bn = None
train_cfg = dict(max_iters=2, val_interval=2)
""",
    "detection": """
_base_ = [
    "{base}/models/detection/cascade_mask_dinov3_base.py",
    "{base}/datasets/detection/scene_coco.py",
    "{base}/schedules/nano_instances.py",
    "{base}/runtimes/detection.py",
]
model = dict(
    backbone=dict(of="timm/test_vit", weights="{weights}"),
    neck=dict(in_channels=64, out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=6),
    ),
)
train_cfg = dict(max_epochs=1, val_interval=9)
""",
}
#: What a user adds to any config.
PEFT = """
_base_ = ["plain.py"]
model = dict(backbone=dict(type="vpeft.PEFT", method=dict(type="LoRA", rank=2)))
"""
FAST = {
    "default_hooks.logger.interval": 1,
    "default_hooks.checkpoint.interval": 1,
    "log_level": "WARNING",
    "param_scheduler": [],
}
FEW_BOXES = {
    "model.train_cfg.rpn_proposal.max_per_img": 50,
    "model.test_cfg.rpn.max_per_img": 50,
    "model.test_cfg.rcnn.max_per_img": 5,
}
BOX_HEADS = {
    f"model.roi_head.bbox_head.{i}.{key}": value
    for i in range(3)
    for key, value in {"num_classes": 6, "in_channels": 16, "fc_out_channels": 32}.items()
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("weights") / "test_vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), file)
    return file


@pytest.fixture
def config(weights, tmp_path):
    """The prepared config of a family, with a user's three lines, on six scenes a split."""

    def of(family, work_dir="run", **options):
        (tmp_path / "plain.py").write_text(RECIPES[family].format(base=BASE, weights=weights))
        (tmp_path / "peft.py").write_text(PEFT)
        data = tmp_path / "scenes"
        own = {f"{part}_dataloader.dataset.data_root": str(data) for part in ("train", "val", "test")}
        own |= {f"{part}_dataloader.num_workers": 0 for part in ("train", "val", "test")}
        if family == "detection":
            own |= BOX_HEADS | FEW_BOXES
            own |= {
                f"{part}_evaluator.ann_file": f"{data}/annotations/instances_{part}.json" for part in ("val", "test")
            }
        cfg = load_config(tmp_path / "peft.py", None, {**FAST, **own, "train_dataloader.batch_size": 3, **options})
        if not data.exists():
            import_modules_from_strings(**cfg.custom_imports)
            with pytest.MonkeyPatch.context() as patch:
                for split in SPLITS:
                    patch.setitem(SPLITS, split, 6)
                DATASETS.build({**cfg.train_dataloader.dataset, "pipeline": []})
        return prepare(cfg, str(tmp_path / work_dir), seed=0)

    return of


@pytest.mark.parametrize(("family", "last"), [("segmentation", "iter_2.pth"), ("detection", "epoch_1.pth")])
@pytest.mark.slow
def test_a_run_of_two_steps_and_what_it_leaves(config, weights, family, last, tmp_path):
    trained = train(config(family)).model.backbone
    file, network = torch.load(weights, weights_only=True), trained.network.state_dict()
    plain_keys = {key for key in network if ".peft." not in key}
    assert plain_keys == {key for key in file if not key.startswith("head.")}
    assert all(torch.equal(network[key], file[key]) for key in plain_keys)
    adaptation = find_adaptation(trained)
    assert (adaptation.base.source, adaptation.base.file) == ("file", str(weights))
    assert adaptation.host.outputs == ([1, 3, 4, 5] if family == "segmentation" else [5])
    assert adaptation.host.reads_map
    lora = [value for key, value in network.items() if ".peft." in key and ".up." in key]
    assert len(lora) == 12  # of queries and values in six blocks
    assert all(value.abs().max() > 0 for value in lora)  # they started at zero

    kept = set(CheckpointLoader.load_checkpoint(str(tmp_path / "run" / last), "cpu")["state_dict"])
    assert kept == set(load_file(tmp_path / "run/adapter.safetensors"))
    assert all(key.startswith("backbone.network.blocks.") and ".peft." in key for key in kept if "backbone" in key)
    result = run_test(config(family, "test"), str(tmp_path / "run" / last))
    assert result["parameters"]["trainable_without_head"] == 6 * 2 * 2 * 2 * 64

    merged = export_merged(config(family), str(tmp_path / "run" / last), str(tmp_path / "merged.pth"))
    assert merged["merged"] < 1e-10
    plain = build_model(plain_config(config(family))).eval()
    assert type(plain.backbone).__name__ == "Backbone"
    plain.load_state_dict(torch.load(tmp_path / "merged.pth", weights_only=True)["state_dict"], strict=True)
    adapted, images = load_trained(config(family), str(tmp_path / "run/adapter.safetensors")), torch.randn(2, 3, 64, 80)
    for one, two in zip(plain.backbone(images), adapted.backbone(images), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


def classifier(weights, **settings):
    backbone = {"type": "vpeft.PEFT", "of": "timm/test_vit", "weights": weights, "method": "LoRA", "out": "cls"}
    return MODELS.build(
        {
            "type": "mmpretrain.ImageClassifier",
            "backbone": {**backbone, **settings},
            "head": {"type": "mmpretrain.LinearClsHead", "num_classes": 3, "in_channels": 64},
        }
    )


def test_a_classifier_loads_attaches_and_freezes_in_this_order(weights):
    model = classifier(str(weights))
    assert find_adaptation(model).base.source == "never"
    model.init_weights()
    network, file = model.backbone.network, torch.load(weights, weights_only=True)
    assert all(torch.equal(p, file[key]) for key, p in network.state_dict().items() if ".peft." not in key)
    plain = timm.create_model("test_vit").eval()
    plain.load_state_dict(file)
    images = torch.randn(2, 3, 160, 160)
    tokens = plain.forward_features(images)
    torch.testing.assert_close(model.eval().extract_feat(images)[0], tokens[:, 0])  # LoRA starts as the base
    model.train()(images).sum().backward()
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert {key.split(".")[0] for key in trained} == {"backbone", "head"}
    assert all(".peft.lora." in key for key in trained if key.startswith("backbone"))
    assert {key for key, p in model.named_parameters() if p.grad is not None} == trained


def test_a_base_without_weights_has_to_be_meant(weights):
    never = classifier(False)
    never.init_weights()
    with pytest.raises(vpeft.UserError, match="got no weights from anywhere"):
        find_adaptation(never).base.need("training")
    meant = classifier(False, base="random")
    meant.init_weights()
    find_adaptation(meant).base.need("training")
    with pytest.raises(vpeft.UserError, match=r"base='random' of vpeft.PEFT beside the file .*test_vit\.pth"):
        classifier(str(weights), base="random")
    with pytest.raises(vpeft.UserError, match=r"none\.pth: no such file"):
        classifier("none.pth").init_weights()


def test_the_librarys_own_weights_come_by_its_own_download(weights, monkeypatch):
    theirs = timm.create_model("test_vit")
    theirs.load_state_dict(torch.load(weights, weights_only=True))
    monkeypatch.setattr("vpeft.core.models.maps.load_backbone", _fetching(theirs))
    model = classifier(None)
    model.init_weights()
    assert torch.equal(model.backbone.network.pos_embed, theirs.pos_embed)
    base = find_adaptation(model).base
    assert (base.source, base.file) == ("file", "vpeft://library/timm/test_vit")
    base.need("training")


def _fetching(pretrained):
    from vpeft.core.backbones.load import load_backbone

    return lambda of, weights=None, **options: (
        pretrained if weights is None else load_backbone(of, weights=weights, **options)
    )


@pytest.mark.parametrize(("method", "message"), [("LST", "takes the place of one output"), ("HST", "one output")])
def test_methods_know_which_blocks_are_read(method, message):
    settings = {"type": "vpeft.PEFT", "of": "timm/test_vit", "base": "random", "method": method}
    with pytest.raises(vpeft.UserError, match=message):
        MODELS.build({**settings, "out_indices": (2, 5)})
    if method == "LST":
        with pytest.raises(vpeft.UserError, match="has no output norm to read at"):
            MODELS.build({**settings, "out_indices": (2,)})  # its read-out lies behind what is read
        MODELS.build({**settings, "out_indices": (5,)})
