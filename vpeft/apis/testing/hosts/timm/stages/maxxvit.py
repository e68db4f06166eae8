"""timm's MaxxVit: MaxViT, MaxxViT and CoAtNet."""

from dataclasses import replace

from torch import nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny

COAT = {"block_type": ("C", "C", "T"), "transformer_expand_first": False, "transformer_init_values": 0.1}


@tiny(
    "timm.MaxxVit",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "coatnet": COAT,
        "coatnet-batch-norm": {**COAT, "transformer_norm_layer": "batchnorm2d", "transformer_pool_type": "max"},
        "coatnet-expanded": {**COAT, "transformer_expand_first": True, "transformer_rel_pos_type": "mlp"},
        "channels-first": {"transformer_use_nchw_attn": True},
        "channels-first-heads-last": {"transformer_use_nchw_attn": True, "transformer_head_first": False},
        "parallel": {"block_type": ("C", "PM", "PM")},
        "heads-last": {"transformer_head_first": False, "transformer_rel_pos_type": "bias_tf"},
        "network-of-positions": {"transformer_rel_pos_type": "mlp"},
        "grid-alone": {"transformer_no_block_attn": True, "head_hidden_size": None},
        "convnext": {"conv_block_type": "convnext", "conv_norm_layer": "layernorm2d", "conv_init_values": 0.1},
        "dropout": {"transformer_attn_drop": 0.1, "transformer_proj_drop": 0.1},
        "coatnet-dropout": {**COAT, "transformer_attn_drop": 0.1, "transformer_proj_drop": 0.1},
        "other-size": ({}, (3, 128, 64)),
    },
    kinds=("coatnet", "channels-first", "parallel"),
    call=features,
)
def t_maxxvit(**options) -> nn.Module:
    from timm.models.maxxvit import MaxxVit, MaxxVitCfg, MaxxVitConvCfg, MaxxVitTransformerCfg

    cfg = MaxxVitCfg(
        embed_dim=(64, 64, 128),
        depths=(1, 1, 2),
        block_type=("C", "M", "M"),
        stem_width=32,
        head_hidden_size=48,
        conv_cfg=MaxxVitConvCfg(expand_ratio=1.0),
        transformer_cfg=MaxxVitTransformerCfg(expand_ratio=2.0, partition_ratio=16, rel_pos_dim=16),
    )
    if "conv_block_type" in options:
        conv = {key.removeprefix("conv_"): options.pop(key) for key in list(options) if key.startswith("conv_")}
        cfg = replace(cfg, conv_cfg=MaxxVitConvCfg(expand_ratio=1.0, **conv))
    return MaxxVit(cfg, **{"img_size": 64, "num_classes": 5, "drop_path_rate": 0.3, **options})
