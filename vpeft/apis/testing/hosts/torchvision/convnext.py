"""torchvision's ConvNeXt."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny


def _call(model: nn.Module, images: Tensor) -> Tensor:
    """The normed mean of the map, before the head."""
    return model.classifier[0](model.avgpool(model.features(images))).flatten(1)


@tiny("torchvision.ConvNeXt", (3, 32, 32), grid=(2, 2), variants={"other-size": ({}, (3, 44, 36))}, call=_call)
def tv_convnext(**options) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [CNBlockConfig(64, 72, 1), CNBlockConfig(72, 80, 2), CNBlockConfig(80, None, 1)]
    return ConvNeXt(stages, **{"stochastic_depth_prob": 0.3, "layer_scale": 0.1, "num_classes": 5, **options})
