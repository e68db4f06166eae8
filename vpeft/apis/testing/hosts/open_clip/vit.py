"""open_clip's ViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "open_clip.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "layer-scale": {"ls_init_value": 0.1, "no_ln_pre": True},
        "mean-pooled": {"pool_type": "avg", "final_ln_after_pool": True},
        "attention-pooled": {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 4},
        "odd-heads": {"heads": 1},
    },
    larger=({"image_size": 48}, None),
)
def clip_vit(**options) -> nn.Module:
    options.pop("drop_path_rate", None)  # it has none
    from open_clip.transformer import VisionTransformer

    plain = {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "heads": 4, "mlp_ratio": 2.0}
    return VisionTransformer(**{**plain, "output_dim": 32, "output_tokens": True, **options})
