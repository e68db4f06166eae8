"""transformers' ViTs."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.tokens.layer import DROPOUT, built

INTERNVL = {"image_size": [32, 32], "patch_size": [8, 8]}


@tiny(
    "transformers.ViTModel",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "eager": {"attention": "eager"},
        "dropout": {**DROPOUT, "attention": "eager"},
        "no-qkv-bias": {"qkv_bias": False},
        "deit": {"cls": "DeiTModel"},
        "msn": {"cls": "ViTMSNModel"},
        "ijepa": {"cls": "IJepaModel"},
        "pooler": {"pooler": True},
        "mae": {"cls": "ViTMAEModel"},
        "yolos": {"cls": "YolosModel", "image_size": [32, 32], "num_detection_tokens": 4},
        "dpt": {"cls": "DPTModel", "pooler": True},
        "internvl": {"cls": "InternVLVisionModel", **INTERNVL, "hidden_dropout_prob": 0.1, "attention_bias": True},
        "internvl-norms": {"cls": "InternVLVisionModel", **INTERNVL, "use_qk_norm": True, "norm_type": "rms_norm"},
        "vivit": ({"cls": "VivitModel", "num_frames": 4, "tubelet_size": [2, 8, 8]}, (4, 3, 32, 32)),
    },
    kinds=("internvl-norms",),
    larger=({"image_size": 48}, (3, 48, 48)),
)
def hf_vit(cls: str = "ViTModel", pooler: bool = False, **options) -> nn.Module:
    model = built(cls, **{"intermediate_size": 128, **options})
    if not pooler:
        model.pooler = None
    return model


@tiny(
    "transformers.Dinov2Model",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "eager": {"attention": "eager"},
        "dropout": DROPOUT,
        "other-size": ({}, (3, 48, 40)),
        "giant": {"use_swiglu_ffn": True},
        "registers": ({"cls": "Dinov2WithRegistersModel", "num_register_tokens": 3}, (3, 40, 32)),
        "maps": {"cls": "Dinov2Backbone", "out_features": ["stage1", "stage3"]},
        "register-maps": {"cls": "Dinov2WithRegistersBackbone", "out_indices": [2, 3], "apply_layernorm": False},
    },
    larger=({"image_size": 48}, (3, 48, 48)),
)
def hf_dinov2(cls: str = "Dinov2Model", **options) -> nn.Module:
    plain = {"mlp_ratio": 2, "layerscale_value": 0.5, "drop_path_rate": 0.3}
    return built(cls, **{**plain, **options})


@tiny(
    "transformers.VideoMAEModel",
    (4, 3, 32, 32),
    grid=(2, 4, 4),
    variants={
        "first-token": {"use_mean_pooling": False, "attention": "eager"},
        "no-qkv-bias": {"qkv_bias": False},
        "dropout": DROPOUT,
    },
    larger=None,  # its positions are worked out
)
def hf_videomae(**options) -> nn.Module:
    return built("VideoMAEModel", **{"intermediate_size": 128, "num_frames": 4, **options})
