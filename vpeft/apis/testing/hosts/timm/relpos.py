"""timm's ViT with relative positions, and BEiT."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny

PLAIN = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
PLAIN |= {"num_classes": 5, "drop_path_rate": 0.3}


@tiny(
    "timm.VisionTransformerRelPos",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "class-token": {"class_token": True, "global_pool": "token"},
        "shared-positions": {"shared_rel_pos": True, "class_token": True},
        "table": {"rel_pos_type": "bias", "qk_norm": True},
        "table-class-token": {"rel_pos_type": "bias", "class_token": True, "init_values": None},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "norm-behind": {"norm_behind": True, "fc_norm": True},
    },
    call=features,
    kinds=("norm-behind",),
)
def t_vit_relpos(norm_behind: bool = False, **options) -> nn.Module:
    from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock, VisionTransformerRelPos

    options["block_fn"] = ResPostRelPosBlock if norm_behind else RelPosBlock
    return VisionTransformerRelPos(**{**PLAIN, "init_values": 0.1, **options})


@tiny(
    "timm.Beit",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "shared-positions": {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        "both-positions": {"use_shared_rel_pos_bias": True, "use_abs_pos_emb": False},
        "no-qkv-bias": {"qkv_bias": False, "init_values": None},
        "gated": {"swiglu_mlp": True, "scale_mlp": True},
        "class-token": {"global_pool": "token"},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
    },
    call=features,
)
def t_beit(**options) -> nn.Module:
    from timm.models.beit import Beit

    return Beit(**{**PLAIN, "init_values": 0.1, "use_rel_pos_bias": True, **options})
