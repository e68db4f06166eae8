"""Which backbones can be read through sites? One room per library, one file per architecture."""

from vpeft.core.backbones.hosts import (  # noqa: F401  (register)
    mmaction,
    mmdet,
    mmpretrain,
    mmseg,
    open_clip,
    timm,
    torchvision,
    transformers,
)
