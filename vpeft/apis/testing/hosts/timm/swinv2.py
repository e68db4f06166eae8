"""timm's Swin V2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.SwinTransformerV2",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "other-size": ({"strict_img_size": False}, (3, 48, 40)),
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "padded": ({"img_size": 36}, (3, 36, 36)),
        "no-qkv-bias": {"qkv_bias": False},
        "pretrained-window": {"pretrained_window_sizes": (6, 6)},
    },
)
def t_swinv2(**options) -> nn.Module:
    from timm.models.swin_transformer_v2 import SwinTransformerV2

    plain = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 64, "depths": (2, 2), "num_heads": (2, 4)}
    return SwinTransformerV2(**{**plain, "mlp_ratio": 2.0, "num_classes": 5, "drop_path_rate": 0.3, **options})


@tiny(
    "timm.SwinTransformerV2Cr",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "other-size": ({"strict_img_size": False}, (3, 48, 40)),
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "padded": ({"img_size": 36}, (3, 36, 36)),
        "norm-behind-stages": {"extra_norm_stage": True},
    },
)
def t_swinv2_cr(**options) -> nn.Module:
    from timm.models.swin_transformer_v2_cr import SwinTransformerV2Cr

    plain = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 64, "depths": (2, 2), "num_heads": (2, 4)}
    plain |= {"mlp_ratio": 2.0, "num_classes": 5, "drop_path_rate": 0.3, "extra_norm_period": 2}
    return SwinTransformerV2Cr(**{**plain, **options})
