"""transformers' image towers of CLIP, SigLIP and their copies."""

import torch
from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.tokens.layer import SMALL


def _tower(cls: str, attention: str = "sdpa", **options) -> nn.Module:
    import transformers

    hidden = transformers.models.git.modeling_git  # as GIT's tower, which is no name of the library
    model = getattr(transformers, cls, None) or getattr(hidden, cls)
    config = model.config_class(**{**SMALL, "intermediate_size": 128, **options})
    config._attn_implementation = attention
    model = model(config)
    return getattr(model, "vision_model", model)


@tiny(
    "transformers.CLIPVisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "eager": {"attention": "eager"},
        "dropout": {"attention_dropout": 0.1},
        "metaclip2": {"cls": "MetaClip2VisionModel"},
        "git": {"cls": "GitVisionModel", "attention": "eager"},
        "blip": {"cls": "BlipVisionModel", "attention": "eager", "attention_dropout": 0.1},
        "owlvit": {"cls": "OwlViTVisionModel", "attention": "eager", "attention_dropout": 0.1},
        "owlv2": {"cls": "Owlv2VisionModel", "attention": "eager"},
    },
    kinds=("blip", "owlvit"),
    larger=({"image_size": 48}, (3, 48, 48)),
)
def hf_clip(cls: str = "CLIPVisionModel", **options) -> nn.Module:
    return _tower(cls, **options)


def _forward(model: nn.Module, x: Tensor) -> object:
    """SigLIP on images; SigLIP 2 on patches of images of 2 x 8 patches."""
    if x.dim() == 4:
        return model(x)
    return model(x, torch.ones(x.shape[:2], dtype=torch.int32), torch.tensor([[2, 8]] * len(x)))


@tiny(
    "transformers.SiglipVisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "eager": {"attention": "eager"},
        "dropout": {"attention_dropout": 0.1},
        "no-head": {"vision_use_head": False},
        "siglip2": ({"cls": "Siglip2VisionModel", "num_patches": 16}, (16, 192)),
        "siglip2-eager": ({"cls": "Siglip2VisionModel", "num_patches": 16, "attention": "eager"}, (16, 192)),
    },
    larger=({"image_size": 48}, (3, 48, 48)),
    call=_forward,
)
def hf_siglip(cls: str = "SiglipVisionModel", **options) -> nn.Module:
    return _tower(cls, **options)
