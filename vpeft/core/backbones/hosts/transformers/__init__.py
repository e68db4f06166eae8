from vpeft.core.backbones.hosts.transformers import (  # noqa: F401  (register)
    beit,
    clip,
    convnext,
    dinov3,
    sam,
    sam2,
    segformer,
    swin,
    swinv2,
    towers,
    vit,
    vitdet,
)
