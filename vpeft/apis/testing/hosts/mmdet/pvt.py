"""mmdet's PVT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmdet.PyramidVisionTransformer",
    (3, 64, 64),
    grid=(2, 2),
    variants={
        "other-size": ({}, (3, 96, 64)),
        "several-outputs": {"out_indices": (1, 3)},
        "no-qkv-bias": {"qkv_bias": False},
        "no-positions": {"use_abs_pos_embed": False},
        "normed": {"norm_after_stage": True},
        "convolved": {"use_conv_ffn": True},
        "v2": {"v2": True},
        "v2-other-size": ({"v2": True}, (3, 80, 96)),
        "dropout": {"drop_rate": 0.1, "attn_drop_rate": 0.1},
    },
    kinds=["v2"],
    larger=({"pretrain_img_size": 96}, (3, 96, 96)),
)
def det_pvt(v2: bool = False, **options) -> nn.Module:
    from mmdet.models.backbones import PyramidVisionTransformer, PyramidVisionTransformerV2

    plain = {"embed_dims": 64, "num_layers": [1, 2, 1, 1], "num_heads": [1, 1, 1, 2], "mlp_ratios": [2, 2, 2, 2]}
    plain |= {"drop_path_rate": 0.3} if v2 else {"pretrain_img_size": 64, "drop_path_rate": 0.3}
    return (PyramidVisionTransformerV2 if v2 else PyramidVisionTransformer)(**{**plain, **options})
