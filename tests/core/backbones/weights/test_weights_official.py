"""The authors' own files into transformers: the model says what timm's says of the same file, by timm's converter."""

import pytest
import timm
import torch
import transformers as hf
from support.weight_files import SMALL, meta_dinov2, meta_dinov3, meta_sam, randomise

from vpeft.core.backbones.weights import load_pretrained
from vpeft.errors import UserError

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 256}
SIZES |= {"layer_norm_eps": 1e-6}
SAM = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 256, "image_size": 64}
SAM |= {"global_attn_indexes": [1], "output_channels": 16, "window_size": 14}


def meta_mae(model):
    """A timm ViT as MAE's authors write it, with the decoder."""
    decoder = {"mask_token": torch.ones(1, 1, 8), "decoder_pos_embed": torch.ones(1, 5, 8)}
    return {**model.state_dict(), **decoder, "decoder_blocks.0.norm1.weight": torch.ones(8)}


def with_mask(model):
    """A DINOv3 whose keys' bias is masked."""
    state = meta_dinov3(model)
    state = {key: value for key, value in state.items() if not key.endswith(("q_bias", "k_bias", "v_bias"))}
    for number, block in enumerate(model.blocks):
        attn = block.attn
        bias = torch.cat((attn.q_bias, torch.ones_like(attn.q_bias), attn.v_bias))
        state[f"blocks.{number}.attn.qkv.bias"] = bias
        state[f"blocks.{number}.attn.qkv.bias_mask"] = torch.ones_like(bias)
    return state


#: timm's model, how its authors write it, its options, and the class and config of transformers.
FILES = {
    "mae": ("vit_base_patch16_224", meta_mae, {"img_size": 32}, hf.ViTModel, hf.ViTConfig(**SIZES, image_size=32)),
    "dinov2": (
        "vit_small_patch14_dinov2",
        meta_dinov2,
        {"img_size": 56},
        hf.Dinov2Model,
        hf.Dinov2Config(**SIZES, image_size=56, patch_size=14),
    ),
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        meta_dinov2,
        {"img_size": 56},
        hf.Dinov2WithRegistersModel,
        hf.Dinov2WithRegistersConfig(**SIZES, image_size=56, patch_size=14),
    ),
    "dinov3": (
        "vit_small_patch16_dinov3_qkvb",
        with_mask,
        {"img_size": 32},
        hf.DINOv3ViTModel,
        hf.DINOv3ViTConfig(**{**SIZES, "layer_norm_eps": 1e-5}, image_size=32, num_register_tokens=4),
    ),
    "sam": (
        "samvit_base_patch16",
        meta_sam,
        {"img_size": 64, "global_attn_indexes": (1,), "neck_chans": 16},
        hf.SamVisionModel,
        hf.SamVisionConfig(**SAM),
    ),
}


def made(name, tmp_path):
    of, write, options, kind, config = FILES[name]
    source = randomise(timm.create_model(of, **{**SMALL, **options}))
    torch.save({key: value.clone() for key, value in write(source).items()}, tmp_path / "meta.pth")
    theirs = timm.create_model(of, **{**SMALL, **options}).eval()
    load_pretrained(theirs, tmp_path / "meta.pth")
    model = kind(config, **({"add_pooling_layer": False} if kind is hf.ViTModel else {}))
    return theirs, model.eval(), options["img_size"]


@pytest.mark.parametrize("name", FILES)
def test_the_authors_files(name, tmp_path):
    theirs, model, size = made(name, tmp_path)
    report = load_pretrained(model, tmp_path / "meta.pth")
    assert report.missing == report.unexpected == []
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, got = theirs.forward_features(images), model(images).last_hidden_state
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_into_a_model_of_a_task(tmp_path):
    """The backbone goes in; the head keeps its start."""
    theirs, _, _ = made("dinov2", tmp_path)
    model = hf.Dinov2ForImageClassification(FILES["dinov2"][-1]).eval()
    report = load_pretrained(model, tmp_path / "meta.pth")
    assert sorted(report.kept) == ["classifier.bias", "classifier.weight"]
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        got = model.dinov2(images).last_hidden_state
        torch.testing.assert_close(got, theirs.forward_features(images), rtol=1e-4, atol=1e-4)


def test_what_is_left_over_is_named(tmp_path):
    _, model, _ = made("dinov2", tmp_path)
    state = torch.load(tmp_path / "meta.pth")
    torch.save({**state, "blocks.0.gate": torch.ones(2)}, tmp_path / "more.pth")
    with pytest.raises(UserError, match=r"has blocks\.0\.gate with no place in the backbone"):
        load_pretrained(model, tmp_path / "more.pth")


@pytest.mark.parametrize("name", ["test_convnext", "test_resnet"])
def test_a_list_of_features_of_timm(name, tmp_path):
    whole = randomise(timm.create_model(name))
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    model = timm.create_model(name, features_only=True).eval()
    report = load_pretrained(model, tmp_path / "whole.pth")
    assert report.missing == report.unexpected == []
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        last = whole.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(model(images)[-1], last)
