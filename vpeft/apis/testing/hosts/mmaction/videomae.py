"""mmaction's ViT of VideoMAE."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmaction.VisionTransformer",
    (3, 4, 16, 16),
    grid=(2, 2, 2),
    variants={
        "first-token": {"use_mean_pooling": False},
        "maps": {"return_feat_map": True},
        "layer-scale": {"init_values": 0.1},
        "no-qkv-bias": {"qkv_bias": False},
        "learned-positions": {"use_learnable_pos_emb": True},
        "other-size": ({}, (3, 4, 24, 32)),
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
    larger=({"num_frames": 8}, (3, 8, 16, 16)),
)
def video_vit(**options) -> nn.Module:
    from mmaction.models.backbones import VisionTransformer

    plain = {"img_size": 16, "patch_size": 8, "embed_dims": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    return VisionTransformer(**{**plain, "num_frames": 4, "drop_path_rate": 0.3, **options})
