"""timm's Levit."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.Levit",
    (3, 32, 32),
    grid=(2, 2),
    variants={
        "convolutions": {"use_conv": True},
        "distilled": {"distilled": True},
        "deeper-stem": ({"stem_type": "s16", "img_size": 64}, (3, 64, 64)),
    },
    kinds=("convolutions",),
)
def t_levit(distilled: bool = False, **options) -> nn.Module:
    from timm.models.levit import Levit, LevitDistilled

    plain = {"embed_dim": (64, 96), "key_dim": 16, "depth": (1, 2), "num_heads": (2, 3), "stem_type": "s8"}
    plain |= {"img_size": 32, "num_classes": 5, "drop_path_rate": 0.3}
    return (LevitDistilled if distilled else Levit)(**{**plain, **options})
