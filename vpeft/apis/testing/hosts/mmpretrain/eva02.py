"""mmpretrain's EVA-02."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

ARCH = {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 96}


@tiny(
    "mmpretrain.ViTEVA02",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "inner-norm": {"sub_ln": True},
        "no-class-token": {"with_cls_token": False, "out_type": "avg_featmap"},
        "other-size": ({}, (3, 48, 40)),
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    },
)
def mm_eva02(**options) -> nn.Module:
    from mmpretrain.models import ViTEVA02

    plain = {"arch": ARCH, "img_size": 32, "patch_size": 8, "out_type": "raw", "drop_path_rate": 0.3}
    return ViTEVA02(**{**plain, **options})
