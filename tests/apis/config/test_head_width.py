"""Heads behind a method whose features have a width of their own."""

import pytest
import torch
from mmengine.registry import DefaultScope
from support import own

from vpeft.apis.config.load import build_model, load_config
from vpeft.apis.config.own import OwnOptions
from vpeft.apis.config.own.from_data import run_on_data
from vpeft.core.models.build import meta_build
from vpeft.errors import UserError

LENGTH, WIDTH = "model.backbone.method.prompt_length", "model.head.in_channels"


@pytest.mark.parametrize(
    ("name", "options", "width"),
    [
        ("mini/vqt_nano_vit", {}, 64 * (1 + 6 * 5)),
        ("mini/vqt_nano_vit", {LENGTH: 1}, 64 * 7),
        ("mini/vqt_nano_vit", {LENGTH: 20, "model.backbone.method.combine": "mean"}, 64 * 7),
        ("mini/hst_nano_vit", {}, 72),
        ("mini_v2/vqt_nano_vit", {LENGTH: 20}, 64 * (1 + 6 * 20)),
        ("small/vqt_dinov2_small", {LENGTH: 1}, 384 * 13),
        ("small/hst_dinov2_small", {}, 72),
        ("vtab/vqt_vit", {LENGTH: 1}, 768 * 13),
        ("mini/lora_nano_vit", {}, 64),
    ],
)
def test_it_follows_from_the_methods_options(name, options, width):
    cfg = load_config(f"vpeft::{name}.py", None, options)
    assert cfg.model.head.in_channels == width


def test_such_a_model_answers():
    cfg = load_config("vpeft::mini/vqt_nano_vit.py", "digits", {LENGTH: 2})
    model = build_model(cfg).eval()
    size = cfg.model.backbone.img_size
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 10)


def test_reading_a_config_leaves_the_scope():
    with DefaultScope.overwrite_default_scope("mmdet"):
        load_config("vpeft::mini/vqt_nano_vit.py")
        assert DefaultScope.get_current_instance().scope_name == "mmdet"


def test_another_one_is_refused_with_the_right_one():
    cfg = load_config("vpeft::mini/vqt_nano_vit.py", "digits", {WIDTH: 99})
    with pytest.raises(
        UserError, match=r"head\.in_channels=99 does not fit the method, which gives 1984 features: set"
    ):
        build_model(cfg)


@pytest.mark.parametrize(
    ("options", "width"),
    [
        ({"method": "vqt", "options": {LENGTH: 3}}, 64 * (1 + 6 * 3)),
        ({"method": "vqt", "model": "timm/vit_tiny_patch16_224", "random_base": True}, 192 * (1 + 12 * 10)),
        ({"method": "hst", "model": "timm/vit_tiny_patch16_224", "random_base": True}, 72),
    ],
)
def test_on_data_of_ones_own(options, width, tmp_path):
    data = own.class_folder(tmp_path / "data", each=5)
    cfg = run_on_data(data, OwnOptions(**options), val_share=0.25, test_share=0.0, work_dir=str(tmp_path / "run")).cfg
    assert cfg.model.head.in_channels == width
    size = 224 if "model" in options else cfg.model.backbone.img_size
    with meta_build():
        model = build_model(cfg).eval()
        assert model(torch.zeros(2, 3, size, size)).shape == (2, 3)
