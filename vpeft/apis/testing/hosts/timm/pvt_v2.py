"""timm's PVT v2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.PyramidVisionTransformerV2",
    (3, 64, 64),
    grid=(2, 2),
    variants={
        "other-size": ({}, (3, 96, 80)),
        "linear": {"linear": True},
        "no-qkv-bias": {"qkv_bias": False},
        "dropout": {"proj_drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
)
def t_pvt(**options) -> nn.Module:
    from timm.models.pvt_v2 import PyramidVisionTransformerV2

    plain = {"depths": (1, 2, 1, 1), "embed_dims": (64, 64, 64, 128), "num_heads": (1, 2, 2, 4), "mlp_ratios": (2,) * 4}
    return PyramidVisionTransformerV2(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
