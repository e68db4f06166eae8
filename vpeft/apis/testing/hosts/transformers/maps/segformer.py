"""transformers' SegFormer and PVT v2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

SIZES = {"depths": [1, 2, 1, 1], "hidden_sizes": [64, 64, 64, 128], "num_attention_heads": [1, 2, 2, 4]}
SIZES |= {"mlp_ratios": [2] * 4, "drop_path_rate": 0.3, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@tiny(
    "transformers.SegformerModel",
    (3, 64, 64),
    grid=(2, 2),
    variants={
        "other-size": ({}, (3, 96, 80)),
        "everything": EVERYTHING,
        "tokens": {"reshape_last_stage": False},
        "dropout": DROPOUT,
    },
)
def hf_segformer(**options) -> nn.Module:
    from transformers import SegformerConfig, SegformerModel

    return SegformerModel(SegformerConfig(**{**SIZES, **options}))


@tiny(
    "transformers.PvtV2Model",
    (3, 64, 64),
    grid=(2, 2),
    variants={
        "other-size": ({}, (3, 96, 80)),
        "everything": EVERYTHING,
        "linear": {"linear_attention": True},
        "no-qkv-bias": {"qkv_bias": False},
        "dropout": DROPOUT,
    },
)
def hf_pvt(**options) -> nn.Module:
    from transformers import PvtV2Config, PvtV2Model

    return PvtV2Model(PvtV2Config(**{**SIZES, **options}))
