"""mmpretrain's SAM."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

ARCH = {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 128, "global_attn_indexes": [1]}


@tiny(
    "mmpretrain.ViTSAM",
    (3, 40, 40),
    grid=(10, 10),
    variants={
        "other-size": ({}, (3, 48, 36)),
        "no-relative-positions": {"use_rel_pos": False},
        "several-outputs": {"out_indices": [0, 2]},
        "mean-pooled": {"out_type": "avg_featmap"},
        "no-neck": {"out_channels": 0},
        "dropout": {"drop_rate": 0.1},
    },
)
def mm_sam(**options) -> nn.Module:
    from mmpretrain.models import ViTSAM

    plain = {"arch": ARCH, "img_size": 40, "patch_size": 4, "out_channels": 16, "window_size": 4, "out_indices": [-1]}
    return ViTSAM(**{**plain, "drop_path_rate": 0.3, **options})
