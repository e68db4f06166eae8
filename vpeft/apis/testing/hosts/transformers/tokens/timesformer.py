"""transformers' TimeSformer."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "transformers.TimesformerModel",
    (3, 3, 16, 16),
    grid=(3, 2, 2),
    prefix=1,
    variants={
        "single-frames": {"attention_type": "space_only"},
        "joint": {"attention_type": "joint_space_time"},
        "no-qkv-bias": {"qkv_bias": False},
        "attentions": {"output_attentions": True},
        "other-size": ({}, (3, 3, 24, 16)),
        "dropout": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
    },
    larger=({"image_size": 32}, (3, 3, 32, 32)),
)
def hf_timesformer(**options) -> nn.Module:
    from transformers import TimesformerConfig, TimesformerModel

    small = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128}
    small |= {"image_size": 16, "patch_size": 8, "num_frames": 3, "drop_path_rate": 0.3}
    return TimesformerModel(TimesformerConfig(**{**small, **options}))
