"""mmpretrain's ViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS

ARCH = {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 128}


@tiny(
    "mmpretrain.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "other-size": ({}, (3, 48, 40)),
        "mean-pooled": {"out_type": "avg_featmap"},
        "no-class-token": {"with_cls_token": False, "out_type": "avg_featmap"},
        "layer-scale": {"layer_scale_init_value": 0.1},
        "no-qkv-bias": {"qkv_bias": False},
        "pre-norm": {"pre_norm": True},
        "dropout": {"drop_rate": 0.1, "layer_cfgs": {"attn_drop_rate": 0.1}},
        "several-outputs": {"out_indices": [0, 1, 2], "out_type": "featmap"},
        "gated": {"layer_cfgs": {"ffn_type": "swiglu_fused"}, "layer_scale_init_value": 0.1},
        "distilled": {"distilled": True},
        "clips": ({"clips": True, "pre_norm": True}, (3, 8, 16, 24)),
    },
    larger=({"img_size": 48}, (3, 48, 48)),
)
def mm_vit(distilled: bool = False, clips: bool = False, **options) -> nn.Module:
    from mmpretrain.models import DistilledVisionTransformer, VisionTransformer

    plain = {"arch": ARCH, "img_size": 32, "patch_size": 8, "out_type": "raw", "drop_path_rate": 0.3}
    model = (DistilledVisionTransformer if distilled else VisionTransformer)(**{**plain, **options})
    setattr(model, FOLDS_CLIPS, clips)
    return model
