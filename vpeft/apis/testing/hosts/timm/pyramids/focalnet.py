"""timm's FocalNet."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.FocalNet",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "norms-behind": {"use_post_norm": True, "use_post_norm_in_modulation": True, "layerscale_value": 0.3},
        "layer-scale": {"layerscale_value": 0.3, "normalize_modulator": True},
        "overlapping": {"use_overlap_down": True, "head_hidden_size": 24},
        "dropout": {"proj_drop_rate": 0.1},
        "other-size": ({}, (3, 48, 40)),
    },
    call=features,
)
def t_focalnet(**options) -> nn.Module:
    from timm.models.focalnet import FocalNet

    plain = {"embed_dim": 64, "depths": (1, 2), "mlp_ratio": 2.0, "focal_levels": (2, 1), "focal_windows": (3, 3)}
    return FocalNet(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
