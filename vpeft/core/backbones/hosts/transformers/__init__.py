from vpeft.core.backbones.hosts.transformers import convnext, sam, swin, swinv2, vit, vitdet  # noqa: F401  (register)
