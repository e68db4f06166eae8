"""timm's Hiera."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.Hiera",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "window-positions": {"abs_win_pos_embed": True, "global_pos_size": (4, 4)},
        "other-size": ({"img_size": (64, 96)}, (3, 64, 96)),
        "layer-scale": {"init_values": 0.1},
        "plain-products": {"fused": False},
        "no-projection": {"use_expand_proj": False},
        "one-pooling": {"q_pool": 1},
    },
    larger=({"img_size": (96, 96)}, (3, 96, 96)),
    call=features,
)
def t_hiera(fused: bool = True, **options) -> nn.Module:
    from timm.models.hiera import Hiera

    plain = {"img_size": (64, 64), "embed_dim": 64, "num_heads": 2, "stages": (1, 2, 1), "q_pool": 2}
    plain |= {"mask_unit_size": (4, 4), "mask_unit_attn": (True, False, False), "num_classes": 5}
    model = Hiera(**{**plain, "drop_path_rate": 0.3, **options})
    for block in model.blocks:
        block.attn.fused_attn = fused
    return model
