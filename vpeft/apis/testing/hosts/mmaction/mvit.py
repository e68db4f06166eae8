"""mmaction2's MViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmaction.MViT",
    (3, 4, 32, 32),
    grid=(2, 4, 4),
    prefix=1,
    variants={
        "other-size": ({}, (3, 4, 32, 48)),
        "several-outputs": {"out_scales": [0, 1]},
        "positions": {"use_abs_pos_embed": True},
        "no-class-token": {"with_cls_token": False, "output_cls_token": False},
        "no-residual": {"residual_pooling": False},
        "no-relative-positions": {"rel_pos_embed": False},
        "no-qkv-bias": {"qkv_bias": False},
    },
    larger=({"spatial_size": 48}, (3, 4, 48, 48)),
)
def video_mvit(**options) -> nn.Module:
    from mmaction.models.backbones.mvit import MViT

    arch = {"embed_dims": 64, "num_layers": 3, "num_heads": 1, "downscale_indices": [1]}
    plain = {"arch": arch, "spatial_size": 32, "temporal_size": 4, "mlp_ratio": 2, "drop_path_rate": 0.3}
    return MViT(**{**plain, "adaptive_kv_stride": (1, 4, 4), **options})
