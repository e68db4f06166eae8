"""mmseg's ViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmseg.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "other-size": ({}, (3, 48, 40)),
        "several-outputs": {"out_indices": [0, 2], "final_norm": False},
        "no-class-token": {"with_cls_token": False},
        "no-qkv-bias": {"qkv_bias": False},
        "pre-norm": {"pre_norm": True, "patch_norm": True},
        "checkpointed": {"with_cp": True},
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
    larger=({"img_size": 48}, (3, 32, 32)),
)
def seg_vit(**options) -> nn.Module:
    from mmseg.models.backbones import VisionTransformer

    plain = {"img_size": 32, "patch_size": 8, "embed_dims": 64, "num_layers": 3, "num_heads": 4, "mlp_ratio": 2}
    plain |= {"final_norm": True, "patch_bias": True, "drop_path_rate": 0.3}
    return VisionTransformer(**{**plain, **options})
