"""timm's ViT, distilled and hybrid too."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS


def read(model: nn.Module, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
    """All tokens, and what weights of their own make of them for the head."""
    x = model.forward_features(images)
    pools = model.attn_pool is not None or not isinstance(model.fc_norm, nn.Identity)
    return (x, model.forward_head(x, pre_logits=True)) if pools else x


@tiny(
    "timm.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "layer-scale": {"init_values": 0.1},
        "registers": {"reg_tokens": 2},
        "no-class-token": {"class_token": False, "global_pool": "avg"},
        "other-size": ({"dynamic_img_size": True}, (3, 48, 40)),
        "qk-norm": {"qk_norm": True},
        "dropout": {"attn_drop_rate": 0.1, "proj_drop_rate": 0.1},
        "gated": {"mlp": "SwiGLUPacked", "init_values": 0.1},
        "gated-last": {"mlp": "GluMlp", "scale_mlp_norm": True},
        "gated-apart": {"mlp": "SwiGLU", "scale_mlp_norm": True, "scale_attn_norm": True, "proj_drop_rate": 0.1},
        "norm-behind": {"block": "ResPostBlock", "mlp": "SwiGLU"},
        "pooled-by-attention": {"global_pool": "map", "class_token": False},
        "gated-behind-a-norm": {"mlp": "vitamin", "class_token": False, "global_pool": "avg"},
        "differential": {"differential": True, "qk_norm": True},
        "differential-products": {"differential": True, "fused": False},
        "parallel": {"block": "ParallelScalingBlock", "init_values": 0.1},
        "parallel-products": {
            "block": "ParallelScalingBlock",
            "fused": False,
            "qk_norm": True,
            "qkv_bias": False,
            "attn_drop_rate": 0.1,
            "proj_drop_rate": 0.1,
        },
        "parallel-differential": {"block": "DiffParallelScalingBlock", "init_values": 0.1},
        "parallel-differential-products": {"block": "DiffParallelScalingBlock", "fused": False, "qk_norm": True},
        "distilled": {"distilled": True},
        "hybrid": {"hybrid": True, "patch_size": 1},
        "clips": ({"clips": True, "img_size": 16}, (3, 8, 16, 16)),
    },
    larger=({"img_size": 48}, None),
    call=read,
    kinds=("norm-behind", "parallel", "parallel-differential"),
)
def t_vit(
    mlp: str = "Mlp",
    block: str = "Block",
    distilled: bool = False,
    hybrid: bool = False,
    differential: bool = False,
    fused: bool = True,
    clips: bool = False,
    **options,
) -> nn.Module:
    import timm.layers
    from timm.models import deit, vision_transformer, vitamin
    from timm.models.vision_transformer_hybrid import HybridEmbed, partial

    plain = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    plain |= {"num_classes": 5, "drop_path_rate": 0.3}
    mlp = vitamin.GeGluMlp if mlp == "vitamin" else getattr(timm.layers, mlp)
    plain |= {"mlp_layer": mlp, "attn_layer": "diff" if differential else "attn"}
    plain |= {"block_fn": getattr(vision_transformer, block)}
    if hybrid:
        stem = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.GroupNorm(2, 16), nn.GELU(), nn.Conv2d(16, 16, 2, 2))
        plain["embed_layer"] = partial(HybridEmbed, backbone=stem)
    cls = deit.VisionTransformerDistilled if distilled else vision_transformer.VisionTransformer
    model = cls(**{**plain, **options})
    for block in model.blocks:
        getattr(block, "attn", block).fused_attn = fused
    setattr(model, FOLDS_CLIPS, clips)
    return model
