"""mmseg's Swin."""

from support.hosts import tiny
from support.hosts.mmdet.swin import DENSE, DENSE_VARIANTS
from torch import nn


@tiny(
    "mmseg.SwinTransformer",
    (3, 16, 16),
    grid=(4, 4),
    variants={**DENSE_VARIANTS, "no-qkv-bias": {"qkv_bias": False}},
    larger=({"window_size": 2}, (3, 16, 16)),
)
def seg_swin(**options) -> nn.Module:
    from mmseg.models import SwinTransformer

    return SwinTransformer(**{**DENSE, **options})
