"""Swin as mmdet and mmseg have it, with one map for each of its outputs."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

#: What mmseg's takes too.
DENSE = {
    "embed_dims": 64,
    "patch_size": 2,
    "strides": (2, 2),
    "window_size": 4,
    "mlp_ratio": 2,
    "depths": (2, 2),
    "num_heads": (2, 4),
    "out_indices": (0, 1),
    "drop_path_rate": 0.3,
}
DENSE_VARIANTS = {
    "padded": ({}, (3, 22, 13)),
    "other-size": ({}, (3, 22, 12)),
    "one-output": {"out_indices": (1,)},
    "small-map": ({}, (3, 6, 6)),
    "checkpointed": {"with_cp": True},
    "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
}


@tiny(
    "mmdet.SwinTransformer",
    (3, 16, 16),
    grid=(4, 4),
    variants=DENSE_VARIANTS,
    larger=({"window_size": 2}, (3, 16, 16)),
)
def det_swin(**options) -> nn.Module:
    from mmdet.models import SwinTransformer

    return SwinTransformer(**{**DENSE, **options})
