"""timm's XCiT and CaiT."""

from support.hosts import tiny
from support.hosts.timm.convnext import features
from torch import nn


@tiny(
    "timm.Xcit",
    (3, 48, 48),
    grid=(3, 3),
    variants={
        "small-patches": ({"patch_size": 8}, (3, 32, 24)),
        "all-tokens-normed": {"tokens_norm": True},
        "no-positions": {"use_pos_embed": False, "qkv_bias": False},
        "mean": {"global_pool": "avg"},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "other-size": ({}, (3, 64, 48)),
    },
    call=features,
)
def t_xcit(**options) -> nn.Module:
    from timm.models.xcit import Xcit

    plain = {"img_size": 48, "patch_size": 16, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    return Xcit(**{**plain, "eta": 0.3, "num_classes": 5, "drop_path_rate": 0.3, **options})


@tiny(
    "timm.Cait",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "no-qkv-bias": {"qkv_bias": False},
        "mean": {"global_pool": "avg"},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    },
    larger=({"img_size": 48}, (3, 48, 48)),
    call=features,
)
def t_cait(**options) -> nn.Module:
    from timm.models.cait import Cait

    plain = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    plain |= {"mlp_ratio_token_only": 2.0, "init_values": 0.3, "num_classes": 5, "drop_path_rate": 0.3}
    return Cait(**{**plain, **options})
