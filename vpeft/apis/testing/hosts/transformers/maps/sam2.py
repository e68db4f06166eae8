"""SAM 2's encoder of transformers."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "transformers.Sam2HieraDetModel",
    (3, 64, 64),
    grid=(4, 4),
    variants={
        "eager": {"eager": True},
        "other-size": ({}, (3, 64, 96)),
        "padded": ({}, (3, 80, 80)),
        "one-pooling": {"num_query_pool_stages": 1},
    },
    larger=({"window_positional_embedding_background_size": [5, 5]}, (3, 64, 64)),
)
def sam2(eager: bool = False, **options) -> nn.Module:
    from transformers import Sam2HieraDetConfig
    from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

    plain = {"hidden_size": 64, "num_attention_heads": 2, "mlp_ratio": 2.0, "image_size": [64, 64]}
    plain |= {"blocks_per_stage": [1, 2, 1], "embed_dim_per_stage": [64, 128, 256], "global_attention_blocks": [2]}
    plain |= {"num_attention_heads_per_stage": [2, 4, 8], "window_size_per_stage": [4, 4, 2]}
    plain |= {"window_positional_embedding_background_size": [4, 4], "num_query_pool_stages": 2}
    config = Sam2HieraDetConfig(**{**plain, **options})
    config._attn_implementation = "eager" if eager else "sdpa"
    return Sam2HieraDetModel(config)
