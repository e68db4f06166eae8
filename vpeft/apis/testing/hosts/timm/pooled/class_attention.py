"""timm's XCiT, CaiT and VOLO."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


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


@tiny(
    "timm.VOLO",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "qkv-bias": {"qkv_bias": True, "use_aux_head": False},
        "mean": {"global_pool": "avg"},
        "dropout": {"attn_drop_rate": 0.1},
        "no-class-attention": {"post_layers": None, "use_aux_head": False, "global_pool": "avg"},
        "without-outlook": {"outlook_attention": (False, False)},
        "odd-map": ({"img_size": 48}, (3, 48, 48)),
    },
    larger=({"img_size": 96}, (3, 96, 96)),
    call=features,
)
def t_volo(**options) -> nn.Module:
    from timm.models.volo import VOLO

    plain = {"layers": (2, 2), "img_size": 64, "embed_dims": (64, 72), "num_heads": (2, 2), "mlp_ratio": 2.0}
    plain |= {"stem_hidden_dim": 16, "downsamples": (True, False), "outlook_attention": (True, False)}
    return VOLO(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
