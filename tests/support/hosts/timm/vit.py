"""timm's ViT."""

from support.hosts import tiny
from torch import nn


@tiny(
    "timm.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "layer-scale": {"init_values": 0.1},
        "registers": {"reg_tokens": 2},
        "no-class-token": {"class_token": False, "global_pool": "avg"},
        "other-size": ({"dynamic_img_size": True}, (3, 48, 40)),
        "qk-norm": {"qk_norm": True},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    },
    larger=({"img_size": 48}, None),
)
def t_vit(**options) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    plain = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    return VisionTransformer(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
