"""mmseg's Swin."""

from torch import nn

from vpeft.apis.testing.hosts.mmdet.swin import DENSE, DENSE_VARIANTS
from vpeft.apis.testing.hosts.tiny import tiny


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
