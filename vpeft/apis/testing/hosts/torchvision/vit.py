"""torchvision's ViT."""

import torch
from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny


def _every_token(model: nn.Module, images: Tensor) -> Tensor:
    """The output of the encoder: the head reads the class token alone."""
    x = model._process_input(images)
    return model.encoder(torch.cat((model.class_token.expand(len(x), -1, -1), x), dim=1))


@tiny(
    "torchvision.VisionTransformer",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "pre-logits": {"representation_size": 16},
        "dropout": {"dropout": 0.1, "attention_dropout": 0.1},
    },
    larger=({"image_size": 48}, None),
    call=_every_token,
)
def tv_vit(**options) -> nn.Module:
    options.pop("drop_path_rate", None)  # it has none
    from torchvision.models import VisionTransformer

    plain = {"image_size": 32, "patch_size": 8, "num_layers": 3, "num_heads": 4, "hidden_dim": 64, "mlp_dim": 128}
    return VisionTransformer(**{**plain, "num_classes": 5, **options})
