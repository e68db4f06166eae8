"""mmaction's Video Swin."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmaction.SwinTransformer3D",
    (3, 6, 16, 16),
    grid=(3, 2, 2),
    variants={
        "padded": ({"window_size": (2, 3, 2)}, (3, 7, 22, 13)),
        "other-size": ({}, (3, 9, 20, 24)),
        "one-window-in-time": {"window_size": (8, 2, 2)},
        "small-map": {"window_size": (8, 7, 7)},
        "several-outputs": {"out_indices": (0, 1)},
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
    larger=({"window_size": (4, 2, 2)}, (3, 6, 16, 16)),
)
def video_swin(**options) -> nn.Module:
    from mmaction.models.backbones import SwinTransformer3D

    arch = {"embed_dims": 64, "depths": [2, 2], "num_heads": [2, 4]}
    plain = {"patch_size": (2, 4, 4), "window_size": (2, 2, 2), "out_indices": (1,), "mlp_ratio": 2}
    return SwinTransformer3D(arch, **{**plain, "pretrained2d": False, "drop_path_rate": 0.3, **options})
