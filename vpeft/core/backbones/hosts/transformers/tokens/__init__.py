"""Which towers of transformers hand on tokens: ViT, DINO, CLIP and what was made after them."""

from vpeft.core.backbones.hosts.transformers.tokens import (  # noqa: F401  (register)
    aimv2,
    beit,
    clip,
    dinov3,
    timesformer,
    towers,
    vit,
    vjepa2,
)
