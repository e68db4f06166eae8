"""mmseg's MiT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmseg.MixVisionTransformer",
    (3, 64, 64),
    grid=(2, 2),
    variants={
        "other-size": ({}, (3, 96, 80)),
        "several-outputs": {"out_indices": (1, 3)},
        "no-qkv-bias": {"qkv_bias": False},
        "checkpointed": {"with_cp": True},
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
)
def seg_mit(**options) -> nn.Module:
    from mmseg.models.backbones import MixVisionTransformer

    plain = {"embed_dims": 64, "num_layers": [1, 2, 1, 1], "num_heads": [1, 1, 1, 2], "mlp_ratio": 2}
    return MixVisionTransformer(**{**plain, "drop_path_rate": 0.3, **options})
