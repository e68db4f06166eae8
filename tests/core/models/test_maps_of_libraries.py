"""Maps out of networks that do not give any themselves are what leaves their blocks and stages."""

import copy

import pytest
import torch
from mmengine.registry import MODELS

import vpeft

SWIN = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 4], "window_size": 4}
TOWER = {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 16, "layers": 3}
SAM = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 64, "output_channels": 16}
SAM |= {"patch_size": 8, "global_attn_indexes": [1], "window_size": 4}
HIERA = {"embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8], "image_size": [64, 64]}
SAM2 = {"hidden_size": 16, "num_attention_heads": 1, "embed_dim_per_stage": [16, 32, 64, 128]}
SAM2 |= {
    "blocks_per_stage": [1, 1, 2, 1],
    "num_attention_heads_per_stage": [1, 2, 4, 8],
    "global_attention_blocks": [3],
}
HIERADET = {"embed_dim": 16, "stages": (1, 1, 2, 1), "global_att_blocks": (3,), "num_heads": 1}
STAGES = {"torchvision/swin_v2_t": {}, "torchvision/convnext_tiny": {}}
STAGES |= {"hf/swin": SWIN, "hf/swinv2": SWIN}
PLAIN = {"torchvision/vit_b_32": {"image_size": 64}, "open_clip/ViT-B-32": TOWER, "hf/sam_vision_model": SAM}


def backbone(of, **settings):
    torch.manual_seed(0)
    return MODELS.build({"type": "vpeft.Backbone", "of": of, "weights": False, **settings}).eval()


def seen(modules, run):
    found = {}
    hooks = [m.register_forward_hook(lambda m, a, out, i=i: found.__setitem__(i, out)) for i, m in enumerate(modules)]
    result = run()
    for hook in hooks:
        hook.remove()
    return [one[0] if isinstance(one, tuple) else one for one in found.values()], result


def as_map(state, height, width):
    if state.dim() == 4:
        return state.permute(0, 3, 1, 2) if state.shape[1:3] == (height, width) else state
    return state[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("of", STAGES)
def test_maps_of_stages(of):
    model = backbone(of, **STAGES[of])
    network = model.network
    stages = network.features[1::2] if hasattr(network, "features") else [s.blocks[-1] for s in network.encoder.layers]
    images = torch.randn(1, 3, 70, 64)
    found, maps = seen(stages, lambda: model(images))
    assert (model.strides, [one.shape[1] for one in maps]) == ([4, 8, 16, 32], model.out_channels)
    norm = getattr(network, "norm", getattr(network, "layernorm", None))
    for number, (one, state) in enumerate(zip(maps, found, strict=True)):
        state = norm(state) if number == 3 and norm is not None else state
        assert one.shape[2:] == (96 // model.strides[number], 64 // model.strides[number])
        assert torch.equal(one, as_map(state, *one.shape[2:]))
    attached = vpeft.attach(copy.deepcopy(model), "LoRA")
    assert all(torch.equal(one, two) for one, two in zip(maps, attached(images), strict=True))
    gone = {"head.weight", "classifier.0.weight", "classifier.2.weight", "pooler.weight"}
    assert not gone & network.state_dict().keys()


@pytest.mark.parametrize(
    ("of", "settings"),
    [("hf/hiera", HIERA), ("hf/sam2_hiera_det_model", SAM2), ("timm/sam2_hiera_tiny", HIERADET)],
    ids=["hiera", "sam2", "hieradet"],
)
def test_maps_of_stages_that_pool_inside_their_blocks(of, settings):
    """Of the library's own size they are the library's own; of another one those of the padded image."""
    model = backbone(of, **settings)
    images = torch.randn(1, 3, 64, 64)
    maps = model(images)
    if of.startswith("timm"):
        expected = model.network.forward_intermediates(images, intermediates_only=True)
    else:
        out = model.network(images, output_hidden_states=True)
        expected = out.reshaped_hidden_states[1:] if of == "hf/hiera" else out.intermediate_hidden_states
        expected = [state.permute(0, 3, 1, 2) for state in expected]
    assert (model.strides, model.out_channels) == ([4, 8, 16, 32], [16, 32, 64, 128])
    assert all(torch.equal(one, two) for one, two in zip(maps, expected, strict=True))
    attached = vpeft.attach(copy.deepcopy(model), "LoRA")
    assert all(torch.equal(one, two) for one, two in zip(maps, attached(images), strict=True))
    wide = torch.randn(1, 3, 60, 90)
    padded = torch.nn.functional.pad(wide, (0, 6, 0, 4))
    assert [tuple(one.shape[2:]) for one in attached(wide)] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(torch.equal(one, two) for one, two in zip(attached(wide), model(padded), strict=True))


def test_hiera_of_another_size_is_that_of_a_config_of_this_size():
    """Its positions are resized; its blocks see the same mask units."""
    small, large = (backbone("hf/hiera", **{**HIERA, "image_size": [size, size]}) for size in (64, 96))
    images, table = torch.randn(1, 3, 96, 96), "embeddings.position_embeddings"
    resized = small.network.embeddings.interpolate_pos_encoding(
        torch.empty(1, 576, 16), small.network.get_parameter(table), 96, 96
    )
    large.network.load_state_dict({**small.network.state_dict(), table: resized.detach()})
    for one, two in zip(small(images), large(images), strict=True):
        torch.testing.assert_close(one, two)
    tied = backbone("hf/hiera", **{**HIERA, "image_size": [64, 96]})
    with pytest.raises(vpeft.UserError, match="takes images of 64 x 96 alone"):
        tied(torch.randn(1, 3, 64, 64))


def test_the_pyramid_of_sam2_is_left_out(tmp_path):
    """Nothing reads it, so it would be trainable without a gradient; a whole file goes in all the same."""
    config = {"backbone_config": {"model_type": "sam2_hiera_det_model", **SAM2}, "fpn_hidden_size": 16}
    config |= {"backbone_channel_list": [128, 64, 32, 16]}
    theirs = vpeft.load_backbone("hf/sam2_vision_model", weights=False, **config)
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    model = MODELS.build(
        {"type": "vpeft.Backbone", "of": "hf/sam2_vision_model", "weights": str(tmp_path / "whole.pth"), **config}
    )
    model.init_weights()
    own = theirs.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in model.network.state_dict().items())
    assert len(own) > len(model.network.state_dict())
    vpeft.attach(model, "LoRA")
    assert not [name for name, p in model.named_parameters() if p.requires_grad and "peft" not in name]


def test_the_checkpoints_of_a_network_that_is_run_part_by_part():
    """Re-entrantly they give no gradient behind a frozen embedding: the image asks for one, or they are refused."""
    model = vpeft.attach(backbone("hf/swin", **SWIN), "LoRA").train()
    model.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model(torch.randn(1, 3, 64, 64))[-1].square().sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model = vpeft.attach(backbone("hf/hiera", **HIERA), "LoRA").train()
    model.network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(vpeft.UserError, match="stages of HieraModel loses gradients"):
        model(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("of", [pytest.param(of, marks=pytest.mark.slow) if "vit_b" in of else of for of in PLAIN])
def test_maps_of_blocks(of):
    model = backbone(of, **PLAIN[of], out_indices=(0, -1))
    network, size = model.network, model.reader.size
    blocks = {"torchvision": "encoder.layers", "open_clip": "transformer.resblocks"}.get(of.split("/")[0])
    blocks = network.get_submodule(blocks or "vision_encoder.layers")
    images = torch.randn(1, 3, *size)
    found, (first, last) = seen(blocks, lambda: model(images))
    extents = [one // model.strides[0] for one in size]
    assert torch.equal(first, as_map(found[0], *extents))
    if of.startswith("hf"):
        assert torch.equal(last, network(images).last_hidden_state)
        assert model.out_channels == [32, 16]
    else:
        norm = network.encoder.ln if hasattr(network, "encoder") else network.ln_post
        assert torch.equal(last, as_map(norm(found[-1]), *extents))
        assert torch.equal(backbone(of, **PLAIN[of], out="cls")(images)[0], norm(found[-1])[:, 0])
        assert backbone(of, **PLAIN[of], out="pooled")(images)[0].shape[0] == 1
    with pytest.raises(vpeft.UserError, match=f"takes images of {size[0]} x {size[1]} alone.*: give image_size="):
        model(torch.randn(1, 3, 96, 96))
    attached = vpeft.attach(copy.deepcopy(model), "LoRA")
    assert all(torch.equal(one, two) for one, two in zip((first, last), attached(images), strict=True))


@pytest.mark.parametrize("of", ["open_clip/ViT-B-32", "hf/swin"])
def test_a_whole_file_goes_in(of, tmp_path):
    """Also what only the classifier reads, which is left out."""
    options = TOWER if of.startswith("open_clip") else SWIN
    theirs = vpeft.load_backbone(of, weights=False, **options, **({} if "clip" in of else {"add_pooling_layer": True}))
    torch.save(theirs.state_dict(), tmp_path / "whole.pth")
    model = MODELS.build({"type": "vpeft.Backbone", "of": of, "weights": str(tmp_path / "whole.pth"), **options})
    model.init_weights()
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in model.network.state_dict().items())
