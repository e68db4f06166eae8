"""An error that helps: the model of another library that has the same weights and a host."""

import pytest
import transformers

from vpeft.core.backbones.find import why_no_host

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**TINY)), "dinov2"),
        (lambda: transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TINY)), "clip"),
    ],
)
def test_the_same_weights_elsewhere(model, name):
    message = why_no_host(model())
    assert f"_{name}" in message
    assert (
        " has weights of the same name and a host (timm.VisionTransformer): vpeft.load_backbone('timm/vit_" in message
    )


def test_no_weights_elsewhere():
    # timm has models with this word, none of which has a host.
    model = transformers.PoolFormerModel(transformers.PoolFormerConfig(hidden_sizes=[8] * 4, depths=[1] * 4))
    assert "weights of the same name" not in why_no_host(model)
