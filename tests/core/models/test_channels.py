"""What is behind a library's network is compared with what the network gives, before an image comes."""

from functools import cache, reduce
from pathlib import Path

import pytest
from mmengine import Config

import vpeft
from vpeft.core.models.build import build_model, meta_build
from vpeft.core.models.channels import check_channels

MODELS = Path(__file__).parents[3] / "configs/_base_/models"


@cache
def built(file):
    cfg = Config.fromfile(MODELS / file)
    cfg.default_scope = "mmdet" if file.startswith("detection") else "mmseg"
    with meta_build():
        return build_model(cfg)


DETECTION, STAGES = "detection/cascade_mask_dinov2_base.py", "segmentation/upernet_convnext_base.py"


@pytest.mark.parametrize(
    ("file", "part", "key", "value", "message"),
    [
        (
            "segmentation/upernet_dinov2_base.py",
            "neck",
            "in_channels",
            [384] * 4,
            r"^neck\.in_channels=\[384, 384, 384, 384\] does not fit the backbone timm/vit_base_patch14_dinov2, which "
            r"gives maps of \[768, 768, 768, 768\] channels: set neck\.in_channels=\[768, 768, 768, 768\]",
        ),
        (
            STAGES,
            "decode_head",
            "in_channels",
            [96, 192, 384, 768],
            r"^decode_head\.in_channels=\[96.*set decode_head\.in_channels=\[128, 256, 512, 1024\]",
        ),
        (
            STAGES,
            "auxiliary_head",
            "in_channels",
            1024,
            r"^auxiliary_head\.in_channels=1024 .* set auxiliary_head\.in_channels=512",
        ),
        (DETECTION, "neck", "in_channels", 1024, r"set neck\.in_channels=768"),
        (
            DETECTION,
            "rpn_head.prior_generator",
            "strides",
            [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)],
            r"^rpn_head\.anchor_generator\.strides=\[4, 8, 16, 32, 64\] does not fit the maps of neck on the backbone "
            r"timm/vit_base_patch14_dinov2: set anchor_generator\.strides=\[3\.5, 7\.0, 14\.0, 28\.0, 56\.0\]",
        ),
        (
            DETECTION,
            "roi_head.mask_roi_extractor.0",
            "featmap_strides",
            [4, 8, 16, 32],
            r"^roi_head\.mask_roi_extractor\.0\.featmap_strides=\[4, 8, 16, 32\] .* featmap_strides=\[3\.5, 7\.0, ",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_right_values(monkeypatch, file, part, key, value, message):
    model = built(file)
    check_channels(model)
    monkeypatch.setattr(
        model.get_submodule(part) if part[-1].isdigit() else reduce(getattr, part.split("."), model), key, value
    )
    with pytest.raises(vpeft.UserError, match=message) as error:
        check_channels(model)
    assert len(str(error.value).splitlines()) == 1


def test_a_classifiers_head():
    model = {
        "type": "ImageClassifier",
        "backbone": {"type": "vpeft.Backbone", "of": "timm/test_vit", "weights": False, "out": "cls"},
        "head": {"type": "LinearClsHead", "num_classes": 3, "in_channels": 96},
    }
    cfg = Config({"default_scope": "mmpretrain", "model": model})
    with meta_build(), pytest.raises(vpeft.UserError, match=r"set head\.in_channels=64"):
        build_model(cfg)
    cfg.model.head.in_channels = 64
    with meta_build():
        assert build_model(cfg).backbone.out_channels == [64]


@pytest.mark.parametrize(
    ("file", "channels", "strides", "size"),
    [
        ("detection/cascade_mask_dinov2_base.py", [768], [14], 86_579_712),
        ("detection/cascade_mask_dinov3_base.py", [768], [16], 85_641_216),
        ("detection/cascade_mask_convnext_base.py", [128, 256, 512, 1024], [4, 8, 16, 32], 87_564_416),
        ("segmentation/upernet_dinov2_base.py", [768] * 4, [14] * 4, 86_579_712),
        ("segmentation/upernet_dinov3_base.py", [768] * 4, [16] * 4, 85_641_216),
        ("segmentation/upernet_convnext_base.py", [128, 256, 512, 1024], [4, 8, 16, 32], 87_564_416),
    ],
)
def test_the_models_of_recipes_fit(file, channels, strides, size):
    model = built(file)
    assert (model.backbone.out_channels, model.backbone.strides) == (channels, strides)
    assert sum(p.numel() for p in model.backbone.parameters()) == size
