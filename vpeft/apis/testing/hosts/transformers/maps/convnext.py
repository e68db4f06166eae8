"""transformers' ConvNeXt."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

PLAIN = {"hidden_sizes": [64, 64, 72], "depths": [1, 2, 1]}
PLAIN |= {"layer_scale_init_value": 0.1, "drop_path_rate": 0.3}


def _built(cls: str, **options) -> nn.Module:
    import transformers

    model = getattr(transformers, cls)
    return model(model.config_class(**{**PLAIN, **options}))


@tiny(
    "transformers.ConvNextModel",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "version-2": {"cls": "ConvNextV2Model"},
        "no-layer-scale": {"layer_scale_init_value": 0.0},
        "maps": {"cls": "ConvNextBackbone", "out_features": ["stem", "stage2", "stage3"]},
        "maps-version-2": {"cls": "ConvNextV2Backbone", "out_features": ["stage1", "stage3"]},
        "other-size": ({}, (3, 44, 36)),
    },
)
def hf_convnext(cls: str = "ConvNextModel", **options) -> nn.Module:
    return _built(cls, **{"num_stages": 3, "patch_size": 2, **options})


@tiny("transformers.DINOv3ConvNextModel", (3, 32, 32), grid=(2, 2), variants={"other-size": ({}, (3, 44, 36))})
def hf_dinov3_convnext(**options) -> nn.Module:
    return _built("DINOv3ConvNextModel", **options)
