"""timm's SAM."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.VisionTransformerSAM",
    (3, 40, 40),
    grid=(10, 10),
    variants={
        "other-size": ({}, (3, 48, 36)),
        "layer-scale": {"init_values": 0.1},
        "qk-norm": {"qk_norm": True},
        "no-relative-positions": {"use_rel_pos": False},
        "pre-norm": {"pre_norm": True},
        "no-neck": {"neck_chans": 0},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    },
)
def t_sam(**options) -> nn.Module:
    from timm.models.vision_transformer_sam import VisionTransformerSAM

    plain = {"img_size": 40, "patch_size": 4, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    plain |= {"use_rel_pos": True, "window_size": 4, "global_attn_indexes": (1,), "neck_chans": 16, "num_classes": 5}
    return VisionTransformerSAM(**{**plain, "drop_path_rate": 0.3, **options})
