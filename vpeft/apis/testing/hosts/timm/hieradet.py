"""timm's HieraDet of SAM 2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.HieraDet",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "other-size": ({}, (3, 64, 96)),
        "padded": ({}, (3, 80, 80)),
        "layer-scale": {"init_values": 0.1},
        "plain-patches": {"patch_size": (4, 4)},
        "one-pooling": {"q_pool": 1},
    },
    larger=({"global_pos_size": (5, 5)}, (3, 64, 64)),
)
def t_hieradet(**options) -> nn.Module:
    from timm.models.hieradet_sam2 import HieraDet

    plain = {"embed_dim": 64, "num_heads": 2, "stages": (1, 2, 1), "q_pool": 2, "global_pos_size": (4, 4)}
    plain |= {"window_spec": (4, 4, 2), "global_att_blocks": (2,), "num_classes": 5, "drop_path_rate": 0.3}
    return HieraDet(**{**plain, **options})
