"""Methods that give one vector of a width of their own: where what reads it does not fit, it is said in one line."""

import pytest
import timm
import transformers
from support.hosts import build

import vpeft

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
SMALL |= {"image_size": 32, "patch_size": 8}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 4}


@pytest.mark.parametrize("method", ["HST", "VQT"])
def test_pooling_by_attention(method):
    model = timm.create_model("vit_base_patch16_siglip_224", **TIMM)
    with pytest.raises(vpeft.UserError, match=r"gives one vector, and this timm.* pools tokens by attention"):
        vpeft.attach(model, method)
    vpeft.attach(timm.create_model("vit_base_patch16_siglip_224", global_pool="avg", fc_norm=False, **TIMM), method)


@pytest.mark.parametrize(
    "model",
    [
        lambda: timm.create_model("eva02_base_patch14_224", global_pool="map", **TIMM),
        lambda: transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**SMALL)),
        lambda: transformers.Aimv2VisionModel(transformers.Aimv2VisionConfig(**SMALL)),
    ],
)
def test_others_that_pool_by_attention(model):
    with pytest.raises(vpeft.UserError, match="pools tokens by attention"):
        vpeft.attach(model(), "HST")


def test_poolers_and_projections():
    for pooler in (True, False):
        model = transformers.ViTModel(transformers.ViTConfig(**SMALL), add_pooling_layer=pooler)
        if pooler:
            with pytest.raises(vpeft.UserError, match=r"gives 48 features, .* reads 64: build it without"):
                vpeft.attach(model, "HST")
        else:
            vpeft.attach(model, "HST")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (transformers.ViTForImageClassification, "classifier takes 64, and must be made anew for 48."),
        (transformers.Dinov2ForImageClassification, "classifier takes 128, and must be made anew for 96."),
    ],
)
def test_a_head_outside(model, words, capsys):
    vpeft.attach(model(model.config_class(**SMALL)), "HST")
    assert f"HST gives 48 features in the place of 64: {words}" in capsys.readouterr().out


def test_an_image_that_the_embedding_does_not_see():
    for method in ("HST", "SideTuning"):
        with pytest.raises(vpeft.UserError, match=f"{method}'s side network sees the image, which is not what the"):
            vpeft.attach(build("timm.VisionTransformer/hybrid"), method)
