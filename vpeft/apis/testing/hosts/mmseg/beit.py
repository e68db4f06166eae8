"""mmseg's BEiT and MAE."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmseg.BEiT",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "several-outputs": {"out_indices": [0, 2], "final_norm": False},
        "no-qkv-bias": {"qv_bias": False, "patch_norm": True},
        "mae": {"mae": True},
        "dropout": {"attn_drop_rate": 0.1},
    },
)
def seg_beit(mae: bool = False, **options) -> nn.Module:
    from mmseg.models.backbones import MAE, BEiT

    plain = {"img_size": 32, "patch_size": 8, "embed_dims": 64, "num_layers": 3, "num_heads": 4, "mlp_ratio": 2}
    return (MAE if mae else BEiT)(**{**plain, "final_norm": True, "drop_path_rate": 0.3, **options})
