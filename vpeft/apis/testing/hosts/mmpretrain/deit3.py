"""mmpretrain's DeiT3."""

from torch import nn

from vpeft.apis.testing.hosts.mmpretrain.vit import ARCH
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmpretrain.DeiT3",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "other-size": ({}, (3, 48, 40)),
        "no-class-token": {"with_cls_token": False},
        "no-layer-scale": {"use_layer_scale": False},
        "no-qkv-bias": {"qkv_bias": False},
        "dropout": {"drop_rate": 0.1, "layer_cfgs": {"attn_drop_rate": 0.1}},
        "several-outputs": {"out_indices": [0, 1, 2], "out_type": "featmap"},
    },
    larger=({"img_size": 48}, (3, 48, 48)),
)
def deit3(**options) -> nn.Module:
    from mmpretrain.models import DeiT3

    plain = {"arch": ARCH, "img_size": 32, "patch_size": 8, "out_type": "raw", "drop_path_rate": 0.3}
    return DeiT3(**{**plain, **options})
