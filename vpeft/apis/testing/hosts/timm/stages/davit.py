"""timm's DaVit."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.DaVit",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "version-2": {"channel_attn_v2": True, "down_kernel_size": 3, "named_blocks": True, "cpe_act": True},
        "norm-before-pooling": {"head_norm_first": True, "qkv_bias": False},
        "other-size": ({}, (3, 48, 36)),
    },
    call=features,
)
def t_davit(**options) -> nn.Module:
    from timm.models.davit import DaVit

    plain = {"depths": (1, 1), "embed_dims": (64, 96), "num_heads": (2, 3), "window_size": 4, "mlp_ratio": 2}
    return DaVit(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
