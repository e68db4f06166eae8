"""timm's Swin."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.SwinTransformer",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "other-size": ({"strict_img_size": False}, (3, 48, 40)),
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "padded": ({"img_size": 36}, (3, 36, 36)),
    },
    larger=({"window_size": 2}, (3, 32, 32)),
)
def t_swin(**options) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    plain = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 64, "depths": (2, 2), "num_heads": (2, 4)}
    return SwinTransformer(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
