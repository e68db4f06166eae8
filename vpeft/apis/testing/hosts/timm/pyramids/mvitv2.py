"""timm's MViT v2."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.MultiScaleVit",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "class-token": {"use_cls_token": True, "use_abs_pos": True},
        "no-relative-positions": ({"rel_pos_type": "none"}, (3, 80, 96)),
        "pooled-by-maxima": {"mode": "max"},
        "no-residual-pooling": {"residual_pooling": False, "qkv_bias": False},
    },
    larger=({"img_size": (96, 96)}, (3, 96, 96)),
    call=features,
)
def t_mvitv2(img_size: tuple[int, int] = (64, 64), **options) -> nn.Module:
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg

    plain = {"depths": (1, 2, 1), "embed_dim": (64, 72, 80), "num_heads": (1, 2, 2), "mlp_ratio": 2.0}
    plain |= {"stride_q": ((1, 1), (2, 2), (2, 2)), "stride_kv_adaptive": (4, 4)}
    return MultiScaleVit(MultiScaleVitCfg(**{**plain, **options}), img_size, num_classes=5, drop_path_rate=0.3)
