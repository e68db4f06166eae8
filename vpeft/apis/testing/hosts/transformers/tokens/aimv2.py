"""transformers' AIMv2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.tokens.layer import built


@tiny(
    "transformers.Aimv2VisionModel",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "eager": {"attention": "eager"},
        "dropout": {"attention_dropout": 0.1, "use_head": False},
        "other-size": ({"is_native": True}, (3, 48, 40)),
        "biases": {"qkv_bias": True, "mlp_bias": True, "use_head": False},
    },
    larger=({"image_size": 48}, (3, 48, 48)),
)
def hf_aimv2(**options) -> nn.Module:
    return built("Aimv2VisionModel", **{"intermediate_size": 128, **options})
