"""mmpretrain's BEiT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

ARCH = {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 128}


@tiny(
    "mmpretrain.BEiTViT",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "shared-positions": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        "position-embedding": {"use_abs_pos_emb": True, "use_rel_pos_bias": False, "bias": True},
        "no-layer-scale": {"layer_scale_init_value": 0.0, "bias": False, "final_norm": True, "out_type": "raw"},
        "several-outputs": {"out_indices": [0, 2], "out_type": "featmap"},
        "dropout": {"drop_rate": 0.1, "layer_cfgs": {"attn_cfg": {"attn_drop_rate": 0.1}}},
    },
)
def mm_beit(**options) -> nn.Module:
    from mmpretrain.models import BEiTViT

    plain = {"arch": ARCH, "img_size": 32, "patch_size": 8, "drop_path_rate": 0.3}
    return BEiTViT(**{**plain, **options})
