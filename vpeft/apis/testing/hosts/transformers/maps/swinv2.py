"""Swin V2 of transformers."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny
from vpeft.apis.testing.hosts.transformers.maps.swin import MAPS, PLAIN, VARIANTS


@tiny(
    "transformers.Swinv2Model",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        **VARIANTS,
        "window-is-map": {"window_size": 8},
        "pretrained-window": {"pretrained_window_sizes": [6, 6]},
    },
)
def swinv2(**options) -> nn.Module:
    from transformers import Swinv2Config, Swinv2Model

    return Swinv2Model(Swinv2Config(**{**PLAIN, **options}))


@tiny("transformers.Swinv2Backbone", (3, 32, 32), grid=(8, 8), variants=VARIANTS)
def swinv2_maps(**options) -> nn.Module:
    from transformers import Swinv2Backbone, Swinv2Config

    return Swinv2Backbone(Swinv2Config(**{**PLAIN, **MAPS, **options}))
