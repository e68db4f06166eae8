"""mmpretrain's ConvNeXt."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmpretrain.ConvNeXt",
    (3, 32, 32),
    grid=(2, 2),
    variants={
        "version-2": {"use_grn": True, "layer_scale_init_value": 0.0},
        "convolutions": {"linear_pw_conv": False, "use_grn": True},
        "several-means": {"out_indices": (1, 3)},
        "maps": {"out_indices": (0, 3), "gap_before_final_norm": False},
        "other-size": ({}, (3, 44, 36)),
    },
)
def mm_convnext(**options) -> nn.Module:
    from mmpretrain.models import ConvNeXt

    plain = {"arch": {"depths": [1, 1, 2, 1], "channels": [64, 64, 72, 80]}, "stem_patch_size": 2}
    return ConvNeXt(**{**plain, "layer_scale_init_value": 0.1, "drop_path_rate": 0.3, **options})
