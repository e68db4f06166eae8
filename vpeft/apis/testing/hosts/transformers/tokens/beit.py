"""transformers' BEiT."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.tokens.layer import DROPOUT, built


@tiny(
    "transformers.BeitModel",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "eager": {"attention": "eager"},
        "shared-positions": {"use_relative_position_bias": False, "use_shared_relative_position_bias": True},
        "both-positions": {"use_shared_relative_position_bias": True, "attention": "eager"},
        "class-token": {"use_mean_pooling": False, "use_absolute_position_embeddings": True},
        "no-layer-scale": {"layer_scale_init_value": 0.0, "use_relative_position_bias": False},
        "data2vec": {"cls": "Data2VecVisionModel"},
        "attention-weights": {"output_attentions": True, "output_hidden_states": True},
        "other-size": ({}, (3, 48, 40)),
        "dropout": {**DROPOUT, "attention": "eager"},
    },
)
def hf_beit(cls: str = "BeitModel", **options) -> nn.Module:
    plain = {"intermediate_size": 128, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
    return built(cls, **{**plain, "drop_path_rate": 0.3, **options})
