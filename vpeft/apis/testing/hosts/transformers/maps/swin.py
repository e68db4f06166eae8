"""Swin of transformers, and its copies."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

PLAIN = {"image_size": 32, "patch_size": 2, "embed_dim": 64, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
PLAIN |= {"mlp_ratio": 2.0, "drop_path_rate": 0.3}
MAPS = {"out_features": ["stage1", "stage2"]}
VARIANTS = {
    "padded": ({}, (3, 36, 26)),
    "other-size": ({}, (3, 31, 45)),
    "no-qkv-bias": {"qkv_bias": False},
    "dropout": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    "attentions": {"output_attentions": True, "output_hidden_states": True},
}


@tiny(
    "transformers.SwinModel",
    (3, 32, 32),
    grid=(8, 8),
    variants={**VARIANTS, "window-is-map": {"window_size": 8}, "donut": {"donut": True}},
    larger=({"window_size": 2}, (3, 32, 32)),
)
def swin(donut: bool = False, **options) -> nn.Module:
    from transformers import DonutSwinConfig, SwinConfig, SwinModel
    from transformers.models.donut.modeling_donut_swin import DonutSwinModel

    model, config = (DonutSwinModel, DonutSwinConfig) if donut else (SwinModel, SwinConfig)
    return model(config(**{**PLAIN, **options}))


@tiny(
    "transformers.SwinBackbone",
    (3, 32, 32),
    grid=(8, 8),
    variants={**VARIANTS, "stem": {"out_features": ["stem", "stage2"]}},
    larger=({"window_size": 2}, (3, 32, 32)),
)
def swin_maps(**options) -> nn.Module:
    from transformers import SwinBackbone, SwinConfig

    return SwinBackbone(SwinConfig(**{**PLAIN, **MAPS, **options}))


@tiny(
    "transformers.MaskFormerSwinBackbone",
    (3, 32, 32),
    grid=(8, 8),
    variants={**VARIANTS, "one-output": {"out_features": ["stage2"]}},
    larger=({"window_size": 2}, (3, 32, 32)),
)
def maskformer_swin(**options) -> nn.Module:
    from transformers import MaskFormerSwinBackbone, MaskFormerSwinConfig

    return MaskFormerSwinBackbone(MaskFormerSwinConfig(**{**PLAIN, **MAPS, **options}))
