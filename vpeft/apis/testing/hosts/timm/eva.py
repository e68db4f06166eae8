"""timm's Eva."""

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "timm.Eva",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "gated": {"swiglu_mlp": True},
        "gated-norm": {"swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True, "qkv_fused": False},
        "no-rotary": {"use_rot_pos_emb": False, "qkv_bias": False, "init_values": 0.1},
        "mixed-rotary": {"rope_type": "mixed", "no_embed_class": True, "attn_type": "rope"},
        "half-rotary": {
            "rope_type": "dinov3",
            "rope_rotate_half": True,
            "use_abs_pos_emb": False,
            "num_reg_tokens": 4,
            "init_values": 0.1,
        },
        "grouped-keys": {"attn_type": "rope", "num_kv_heads": 2, "qkv_fused": False, "qk_norm": True},
        "norm-behind": {"use_post_norm": True, "use_rot_pos_emb": False},
        "pooled-by-attention": {"global_pool": "map", "use_pre_transformer_norm": True, "class_token": False},
        "other-size": ({"dynamic_img_size": True}, (3, 48, 40)),
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1, "swiglu_mlp": True},
    },
    larger=({"img_size": 48}, None),
    call=features,
    kinds=("norm-behind",),
)
def t_eva(**options) -> nn.Module:
    from timm.models.eva import Eva

    plain = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    plain |= {"num_classes": 5, "drop_path_rate": 0.3, "use_rot_pos_emb": True}
    return Eva(**{**plain, **options})
