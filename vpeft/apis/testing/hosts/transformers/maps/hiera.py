"""Hiera of transformers."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "transformers.HieraModel",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "other-size": ({"image_size": [64, 96]}, (3, 64, 96)),
        "states": {"output_hidden_states": True, "output_attentions": True},
        "one-pooling": {"num_query_pool": 1},
        "no-pooler": {"add_pooling_layer": False},
    },
    larger=({"image_size": [96, 96]}, (3, 96, 96)),
)
def hiera(add_pooling_layer: bool = True, **options) -> nn.Module:
    from transformers import HieraConfig, HieraModel

    plain = {"embed_dim": 64, "image_size": [64, 64], "depths": [1, 2, 1], "num_heads": [2, 4, 8], "mlp_ratio": 2.0}
    plain |= {"num_query_pool": 2, "masked_unit_size": [4, 4], "masked_unit_attention": [True, False, False]}
    config = HieraConfig(**{**plain, "drop_path_rate": 0.3, **options})
    return HieraModel(config, add_pooling_layer=add_pooling_layer)
