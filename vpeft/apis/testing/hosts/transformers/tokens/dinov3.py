"""transformers' DINOv3 ViT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.tokens.layer import built


@tiny(
    "transformers.DINOv3ViTModel",
    (3, 32, 32),
    grid=(4, 4),
    prefix=3,
    variants={
        "eager": {"attention": "eager"},
        "dropout": {"attention_dropout": 0.1, "pos_embed_shift": 0.1, "pos_embed_rescale": 2.0},
        "other-size": ({}, (3, 48, 40)),
        "gated": {"use_gated_mlp": True},
        "no-registers": {"num_register_tokens": 0, "key_bias": True},
    },
    larger=None,
)
def hf_dinov3(**options) -> nn.Module:
    plain = {"intermediate_size": 128, "num_register_tokens": 2, "layerscale_value": 0.5, "drop_path_rate": 0.3}
    return built("DINOv3ViTModel", **{**plain, **options})
