"""timm's NesT."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.Nest",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "no-qkv-bias": {"qkv_bias": False},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "same-padding": {"pad_type": "same"},
    },
    larger=({"img_size": 64}, (3, 64, 64)),
    call=features,
)
def t_nest(**options) -> nn.Module:
    from timm.models.nest import Nest

    plain = {"img_size": 32, "patch_size": 4, "num_levels": 2, "embed_dims": (64, 72), "num_heads": (2, 2)}
    plain |= {"depths": (2, 2), "mlp_ratio": 2.0, "num_classes": 5, "drop_path_rate": 0.3}
    return Nest(**{**plain, **options})
