"""mmpretrain's Swin."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

ARCH = {"embed_dims": 64, "depths": [2, 2], "num_heads": [2, 4]}


@tiny(
    "mmpretrain.SwinTransformer",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "padded": ({"pad_small_map": True}, (3, 36, 26)),
        "other-size": ({"pad_small_map": True}, (3, 44, 24)),
        "larger": ({}, (3, 48, 64)),
        "small-map": ({"pad_small_map": True}, (3, 12, 12)),
        "position-embedding": {"use_abs_pos_embed": True},
        "several-outputs": {"out_indices": (0, 1)},
        "checkpointed": {"with_cp": True},
        "dropout": {"drop_rate": 0.1, "stage_cfgs": {"block_cfgs": {"attn_cfgs": {"attn_drop": 0.1}}}},
    },
    larger=({"window_size": 2}, (3, 32, 32)),
)
def mm_swin(**options) -> nn.Module:
    from mmpretrain.models import SwinTransformer

    plain = {"img_size": 32, "patch_size": 2, "window_size": 4, "out_indices": (1,), "drop_path_rate": 0.3}
    return SwinTransformer(**{"arch": ARCH, **plain, **options})
