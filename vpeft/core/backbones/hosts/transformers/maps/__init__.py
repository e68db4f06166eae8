"""Which backbones of transformers hand on maps: windows, pyramids and convolutions."""

from vpeft.core.backbones.hosts.transformers.maps import (  # noqa: F401  (register)
    convnext,
    hiera,
    sam,
    sam2,
    segformer,
    swin,
    swinv2,
    vitdet,
)
