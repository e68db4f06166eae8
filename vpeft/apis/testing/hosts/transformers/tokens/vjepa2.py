"""transformers' V-JEPA 2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "transformers.VJEPA2Encoder",
    (4, 3, 32, 32),
    grid=(2, 4, 4),
    variants={
        "eager": {"attention": "eager"},
        "dropout": {"attention_probs_dropout_prob": 0.1},
        "no-qkv-bias": {"qkv_bias": False},
    },
    larger=None,
)
def hf_vjepa2(attention: str = "sdpa", **options) -> nn.Module:
    from transformers import VJEPA2Config, VJEPA2Model

    small = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 2, "crop_size": 32}
    small |= {"patch_size": 8, "frames_per_clip": 4, "pred_hidden_size": 48, "pred_num_attention_heads": 2}
    config = VJEPA2Config(**{**small, "pred_num_hidden_layers": 1, "drop_path_rate": 0.3, **options})
    config._attn_implementation = attention
    return VJEPA2Model(config).encoder
