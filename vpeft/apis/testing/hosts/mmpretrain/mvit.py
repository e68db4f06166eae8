"""mmpretrain's MViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmpretrain.MViT",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "other-size": ({}, (3, 32, 48)),
        "several-outputs": {"out_scales": [0, 1]},
        "positions": {"use_abs_pos_embed": True},
        "no-residual": {"residual_pooling": False},
        "no-relative-positions": {"rel_pos_spatial": False},
        "no-qkv-bias": {"qkv_bias": False},
    },
    larger=({"img_size": 48}, (3, 48, 48)),
)
def mm_mvit(**options) -> nn.Module:
    from mmpretrain.models.backbones import MViT

    arch = {"embed_dims": 64, "num_layers": 3, "num_heads": 1, "downscale_indices": [1]}
    return MViT(**{"arch": arch, "img_size": 32, "mlp_ratio": 2, "drop_path_rate": 0.3, **options})
