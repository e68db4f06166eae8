"""A library's network as a backbone: the maps are the library's own, whatever the size of the image."""

import copy

import mmaction.registry
import mmdet.registry
import mmpretrain.registry
import mmseg.registry
import pytest
import timm
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS

import vpeft
from vpeft.core.models.build import meta_build

TINY_VIT = {"of": "timm/test_vit", "weights": False}  # 6 blocks of width 64, patches of 16
TINY_CONVNEXT = {"of": "timm/test_convnext", "weights": False}
TINY_SWIN = {
    "of": "timm/swin_tiny_patch4_window7_224",
    "weights": False,
    "embed_dim": 16,
    "depths": (1, 1, 2, 1),
    "num_heads": (1, 2, 2, 4),
    "img_size": 64,
    "window_size": 2,
}
TINY_BEIT = {"of": "timm/beit_base_patch16_224", "weights": False, "embed_dim": 32, "depth": 2, "num_heads": 2}
TINY_HF = {"weights": False, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
TINY_HF |= {"image_size": 32, "patch_size": 8}


def backbone(**settings):
    torch.manual_seed(0)
    return MODELS.build({"type": "vpeft.Backbone", **settings}).eval()


def seen(modules, run):
    """What modules give while ``run`` runs."""
    found = {}
    hooks = [m.register_forward_hook(lambda m, a, out, i=i: found.__setitem__(i, out)) for i, m in modules.items()]
    result = run()
    for hook in hooks:
        hook.remove()
    return found, result


def as_map(tokens, height, width, prefix):
    return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width)


@pytest.mark.parametrize("registry", [mmpretrain, mmdet, mmseg, mmaction])
def test_every_package_finds_it_under_one_name(registry):
    with meta_build():
        model = registry.registry.MODELS.build({"type": "vpeft.Backbone", **TINY_VIT})
    assert (model.out_channels, model.strides) == ([64], [16])


@pytest.mark.parametrize("norm", [True, False])
def test_maps_of_a_vit_are_what_leaves_its_blocks(norm):
    model = backbone(**TINY_VIT, out_indices=(1, 3, -1), norm=norm)
    images = torch.randn(2, 3, 90, 133)
    found, maps = seen({i: model.network.blocks[i] for i in (1, 3, 5)}, lambda: model(images))
    assert [tuple(one.shape) for one in maps] == [(2, 64, 6, 9)] * 3
    last = model.network.norm(found[5]) if norm else found[5]
    for one, tokens in zip(maps, (found[1], found[3], last), strict=True):
        assert torch.equal(one, as_map(tokens, 6, 9, prefix=1))
    assert (model.out_channels, model.strides) == ([64] * 3, [16] * 3)


@pytest.mark.parametrize("settings", [TINY_VIT, TINY_CONVNEXT, TINY_SWIN], ids=["vit", "convnext", "swin"])
def test_an_image_of_any_size_is_padded_right_and_below(settings):
    model = backbone(**settings)
    images, stride = torch.randn(1, 3, 90, 133), max(model.strides)
    height, width = -(-90 // stride) * stride, -(-133 // stride) * stride
    padded = F.pad(images, (0, width - 133, 0, height - 90))
    for one, two, each in zip(model(images), model(padded), model.strides, strict=True):
        assert torch.equal(one, two)
        assert one.shape[2:] == (height // each, width // each)


def test_position_tables_are_resized_as_timm_does():
    """At another size the network is what timm builds for that size."""
    model = backbone(**TINY_VIT, out="tokens")
    images = torch.randn(1, 3, 96, 64)
    resized = copy.deepcopy(model.network)
    resized.dynamic_img_size = False
    resized.patch_embed.output_fmt, resized.patch_embed.flatten = "NLC", True
    resized.set_input_size((96, 64))
    assert resized.pos_embed.shape != model.network.pos_embed.shape
    torch.testing.assert_close(model(images)[0], resized.forward_features(images), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "parts", "channels"),
    [(TINY_CONVNEXT, "stages", [24, 32, 48, 64]), (TINY_SWIN, "layers", [16, 32, 64, 128])],
    ids=["convnext", "swin"],
)
def test_maps_of_stages(settings, parts, channels):
    model = backbone(**settings)
    stages = dict(enumerate(getattr(model.network, parts)))
    found, maps = seen(stages, lambda: model(torch.randn(1, 3, 64, 96)))
    assert (model.out_channels, model.strides) == (channels, [4, 8, 16, 32])
    for i, one in enumerate(maps):
        assert one.shape == (1, channels[i], 64 // model.strides[i], 96 // model.strides[i])
        stage = found[i]
        if parts == "layers":
            stage = (model.network.norm(stage) if i == 3 else stage).permute(0, 3, 1, 2)
        assert torch.equal(one, stage)
    part = backbone(**settings, out_indices=(1, 2))
    assert (part.out_channels, part.strides) == (channels[1:3], [8, 16])


def test_outputs_for_classifiers():
    images = torch.randn(2, 3, 64, 96)
    models = {out: backbone(**TINY_VIT, out=out) for out in ("tokens", "cls", "mean", "pooled")}
    tokens = models["tokens"].network.forward_features(images)
    got = {out: model(images) for out, model in models.items()}
    assert all(isinstance(one, tuple) and len(one) == 1 for one in got.values())
    assert torch.equal(got["tokens"][0], tokens)
    assert torch.equal(got["cls"][0], tokens[:, 0])
    torch.testing.assert_close(got["mean"][0], tokens[:, 1:].mean(1))
    assert torch.equal(got["pooled"][0], models["pooled"].network.forward_head(tokens, pre_logits=True))
    pooled = backbone(**TINY_CONVNEXT, out="pooled")
    theirs = pooled.network.head.norm(pooled.network.forward_features(images).mean((2, 3), keepdim=True)).flatten(1)
    torch.testing.assert_close(pooled(images)[0], theirs)


def test_what_only_a_classifier_reads_is_taken_off():
    """It would be trained with the head, and no gradient would come."""
    keys = backbone(**TINY_CONVNEXT).state_dict()
    assert not [key for key in keys if ".head." in key]
    assert [key for key in backbone(**TINY_CONVNEXT, out="pooled").state_dict() if ".head.norm." in key]
    assert not [key for key in backbone(of="timm/test_vit3", weights=False).state_dict() if "fc_norm" in key]


@pytest.mark.parametrize("of", ["hf/vit", "hf/dinov2_with_registers", "hf/dinov3_vit", "hf/clip_vision_model"])
def test_maps_of_hidden_states(of):
    model = backbone(of=of, **TINY_HF, out_indices=(0, 2))
    images = torch.randn(1, 3, 45, 64)
    padded = F.pad(images, (0, 0, 0, 3))
    out = model.network(padded, **model.reader.call)
    prefix = out.last_hidden_state.shape[1] - 48
    first, last = model(images)
    assert torch.equal(first, as_map(out.hidden_states[1], 6, 8, prefix))
    assert torch.equal(last, as_map(out.last_hidden_state, 6, 8, prefix))
    assert (model.out_channels, model.strides) == ([32, 32], [8, 8])
    assert model.reader.normed == (of != "hf/clip_vision_model")  # whose last norm is the pooled token's alone
    assert torch.equal(backbone(of=of, **TINY_HF, out="cls")(padded)[0], out.last_hidden_state[:, 0])


def test_maps_of_the_stages_of_hidden_states():
    model = backbone(of="hf/convnext", weights=False, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    stages = dict(enumerate(model.network.encoder.stages))
    found, maps = seen(stages, lambda: model(torch.randn(1, 3, 64, 96)))
    assert model.strides == [4, 8, 16, 32]
    assert all(torch.equal(one, found[i]) for i, one in enumerate(maps))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**TINY_VIT, "out_indices": (3, 1)}, r"has 6 blocks, 0 to 5; name each once, in ascending order"),
        ({**TINY_VIT, "out_indices": (6,)}, "has 6 blocks"),
        ({**TINY_CONVNEXT, "out_indices": (-5,)}, "has 4 stages, 0 to 3"),
        ({**TINY_VIT, "out": "maps"}, r"out='maps' of vpeft\.Backbone: did you mean 'map'\?"),
        ({**TINY_VIT, "out": "cls", "out_indices": (1,)}, r"stands beside out='cls'"),
        ({**TINY_VIT, "init_cfg": {"type": "Pretrained", "checkpoint": "a.pth"}}, "name the file by weights=FILE"),
        ({"of": "hf/swin2sr", "weights": False}, "take the same network of timm"),
        (
            {"of": "torchvision/resnet18", "weights": False},
            "reads ConvNeXt, SwinTransformer, VisionTransformer, and not R",
        ),
        ({"of": "open_clip/RN50", "weights": False}, "of open_clip .* reads VisionTransformer, and not ModifiedResNet"),
        ({"of": "hf/vit_mae", "weights": False}, "take hf/vit with its file"),
    ],
)
def test_refusals_of_settings(settings, message):
    with pytest.raises(vpeft.UserError, match=message) as error:
        backbone(**settings)
    assert len(str(error.value).splitlines()) == 1


def test_refusals_of_images():
    with pytest.raises(vpeft.UserError, match=r"takes images of 224 x 224 alone, and one of 64 x 96 came: give img_si"):
        backbone(**TINY_BEIT)(torch.randn(1, 3, 64, 96))
    assert backbone(**TINY_BEIT, img_size=(64, 96))(torch.randn(1, 3, 64, 96))[0].shape == (1, 32, 4, 6)
    with pytest.raises(vpeft.UserError, match="has no class token: take out='mean'"):
        backbone(**TINY_CONVNEXT, out="cls")(torch.randn(1, 3, 64, 96))


@pytest.mark.parametrize("of", ["test_vit3", "test_convnext"])
def test_a_file_with_the_pooling_that_was_taken_off(of, tmp_path):
    theirs = timm.create_model(of)
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    model = backbone(of=f"timm/{of}", weights=str(tmp_path / "whole.pth"))
    model.init_weights()
    own = theirs.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.network.state_dict().items())
    assert len(own) > len(model.network.state_dict())
