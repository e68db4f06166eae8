"""Hosts of transformers: what the library offers beside a forward pass, and where a ViT is a part of a model."""

import copy

import pytest
import torch
import transformers
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.core.backbones.find import find_host
from vpeft.extension.attention.record import record_attention

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
SMALL |= {"image_size": 32, "patch_size": 8}


def pixels(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("host", ["transformers.ViTModel", "transformers.Dinov2Model"])
def test_hidden_states_and_attentions_are_still_given(host):
    plain = build(host, torch.float32, attention="eager")
    model = vpeft.attach(copy.deepcopy(plain), "LoRA")
    asked = {"output_hidden_states": True, "output_attentions": True}
    ours, theirs = model(pixels(), **asked), plain(pixels(), **asked)
    assert len(ours.hidden_states) == 4
    assert len(ours.attentions) == 3
    for name in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(ours[name], theirs[name], strict=True))
    perturb(model)
    with record_attention(model) as maps:
        given = model(pixels(), output_attentions=True).attentions
    for index, weights in enumerate(given):
        torch.testing.assert_close(weights, maps[index].weights)
    assert not torch.equal(given[-1], theirs.attentions[-1])


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", ["LoRA", "VPTDeep"])
def test_checkpointing_is_obeyed_over_a_frozen_base(method, reentrant):
    model = vpeft.attach(build("transformers.ViTModel"), method)
    perturb(model).train()
    own = {key: p for key, p in model.named_parameters() if p.requires_grad}
    x = inputs("transformers.ViTModel", dtype=torch.float64)
    grads = []
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        calls = []
        hook = model.encoder.layer[1].register_forward_pre_hook(lambda *args, calls=calls: calls.append(args))
        tokens(model, x).square().sum().backward()
        hook.remove()
        assert len(calls) == 1 + checkpointed
        grads.append({key: p.grad for key, p in own.items()})
        model.zero_grad()
    for key in own:
        torch.testing.assert_close(*(grad[key] for grad in grads))


def test_a_head_mask_and_pruned_heads_are_refused():
    model = vpeft.attach(build("transformers.ViTModel", torch.float32), "LoRA")
    with pytest.raises(vpeft.UserError, match="head_mask is not re-stated"):
        model(pixels(), head_mask=torch.ones(3, 4))
    pruned = build("transformers.ViTModel", torch.float32)
    pruned.prune_heads({1: [0]})
    with pytest.raises(vpeft.UserError, match=r"encoder\.layer\.1: pruned heads \(\[0\]\)"):
        vpeft.attach(pruned, "LoRA")
    function = build("transformers.ViTModel", torch.float32, hidden_act=torch.tanh)
    with pytest.raises(vpeft.UserError, match=r"encoder\.layer\.0: the activation intermediate_act_fn is a function"):
        vpeft.attach(function, "LoRA")


@pytest.mark.parametrize("method", ["Mona", "Convpass"])
def test_a_method_that_looks_at_the_map_needs_a_whole_one(method):
    in_order = torch.arange(16.0).expand(2, -1)
    model = vpeft.attach(build("transformers.ViTModel", torch.float32, cls="ViTMAEModel", mask_ratio=0.0), method)
    assert model(pixels(), noise=in_order).last_hidden_state.shape == (2, 17, 64)
    for noise, ratio in ((in_order.flip(1), 0.0), (in_order, 0.75)):
        model.config.mask_ratio = ratio
        with pytest.raises(vpeft.UserError, match="lie on no one map"):
            model(pixels(), noise=noise)
    model = build("transformers.ViTModel", torch.float32, cls="YolosModel", image_size=[32, 32])
    with pytest.raises(vpeft.UserError, match="lie on no one map"):
        vpeft.attach(model, method)(pixels())


def test_a_masked_pass_is_right_for_a_method_that_does_not():
    plain = build("transformers.ViTModel", torch.float32, cls="ViTMAEModel", mask_ratio=0.5)
    model = vpeft.attach(copy.deepcopy(plain), "AdaptFormer")
    noise = torch.rand(2, 16)
    assert torch.equal(model(pixels(), noise=noise).last_hidden_state, plain(pixels(), noise=noise).last_hidden_state)


TASKS = {
    "ViTForImageClassification": ({}, "vit", "classifier"),
    "Dinov2ForImageClassification": ({"mlp_ratio": 2}, "dinov2", "classifier"),
    "VideoMAEForVideoClassification": ({"num_frames": 4}, "videomae", "fc_norm"),
    "YolosForObjectDetection": ({"image_size": [32, 32]}, "vit", "bbox_predictor"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_model_is_adapted_at_its_backbone(name):
    options, backbone, head = TASKS[name]
    cls = getattr(transformers, name)
    plain = cls(cls.config_class(**{**SMALL, **options}))
    model = vpeft.attach(copy.deepcopy(plain), "LoRA").eval()
    x = torch.randn(1, 4, 3, 32, 32) if "Video" in name else pixels(1)
    torch.testing.assert_close(model(x).logits, plain.eval()(x).logits)
    trained = {key for key, p in model.named_parameters() if p.requires_grad}
    assert {key.split(".")[0] for key in trained} >= {backbone, head}
    assert all(".peft.lora." in key for key in trained if key.startswith(backbone + "."))


def test_the_vit_of_a_dpt_gives_the_outputs_that_its_head_reads():
    config = transformers.DPTConfig(
        **SMALL, backbone_out_indices=[0, 0, 1, 1], neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, is_hybrid=False
    )
    model = transformers.DPTForDepthEstimation(config)
    host = find_host(model)
    assert host.outputs == [0, 0, 1, 1]
    assert "norm.0" not in host.sites
    vpeft.attach(model, "BitFit")
    assert not model.dpt.layernorm.bias.requires_grad
    with pytest.raises(vpeft.UserError, match="is_hybrid"):
        vpeft.attach(transformers.DPTModel(transformers.DPTConfig(is_hybrid=True)), "LoRA")


def test_blocks_behind_the_last_output_are_left_alone():
    config = transformers.Dinov2Config(
        **{**SMALL, "num_hidden_layers": 3}, mlp_ratio=2, out_features=["stage1", "stage2"]
    )
    model = vpeft.attach(transformers.Dinov2Backbone(config), "BitFit")
    assert len(model.peft_adaptation.host.blocks) == 2
    model.train()(pixels()).feature_maps[0].sum().backward()
    assert model.encoder.layer[1].mlp.fc1.bias.requires_grad
    assert not model.encoder.layer[2].mlp.fc1.bias.requires_grad


def test_a_folder_of_an_adapted_model(tmp_path, caplog):
    """The folder holds base and adapter; the library reads the base and says what it leaves."""
    model = vpeft.attach(transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL)), "LoRA").eval()
    base = model(pixels()).logits
    perturb(model)
    out = model(pixels()).logits
    model.save_pretrained(tmp_path / "adapted")
    again, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / "adapted", output_loading_info=True)
    assert info["unexpected_keys"]
    assert all(".peft.lora." in key for key in info["unexpected_keys"])
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    vpeft.load_adapter(again, tmp_path / "a.safetensors")
    again.classifier.load_state_dict(model.classifier.state_dict())
    assert torch.equal(again.eval()(pixels()).logits, out)
    assert not torch.equal(base, out)

    vpeft.merge(model)
    vpeft.detach(model, restore=False)
    model.save_pretrained(tmp_path / "merged")
    plain, info = transformers.ViTForImageClassification.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert not info["missing_keys"]
    torch.testing.assert_close(plain.eval()(pixels()).logits, out, atol=1e-5, rtol=1e-4)


def two_towers(**options):
    text = {**SMALL, "vocab_size": 99, "max_position_embeddings": 8, "eos_token_id": 98}
    text = {key: value for key, value in text.items() if key not in ("image_size", "patch_size")}
    config = transformers.CLIPConfig(text_config=text, vision_config={**SMALL, **options})
    return transformers.CLIPModel(config).eval()


def test_of_two_towers_the_one_that_sees_is_adapted():
    plain = two_towers()
    model = vpeft.attach(copy.deepcopy(plain), "LoRA")
    ids = torch.arange(1, 9).expand(2, -1)
    assert torch.equal(model.get_text_features(input_ids=ids), plain.get_text_features(input_ids=ids))
    assert {type(m) for m in model.text_model.modules()} == {type(m) for m in plain.text_model.modules()}
    perturb(model.vision_model)
    assert torch.equal(model.get_text_features(input_ids=ids), plain.get_text_features(input_ids=ids))
    out = model(pixel_values=pixels(), input_ids=ids, return_loss=True)
    assert not torch.equal(out.image_embeds, plain(pixel_values=pixels(), input_ids=ids).image_embeds)
    out.loss.backward()
    own = [p for p in model.vision_model.parameters() if p.requires_grad]
    assert own
    assert all(p.grad.any() for p in own)


@pytest.mark.parametrize("host", ["transformers.CLIPVisionTransformer", "transformers.SiglipVisionTransformer"])
def test_towers_give_hidden_states_and_attentions(host):
    plain = build(host, torch.float32, attention="eager")
    model = vpeft.attach(copy.deepcopy(plain), "LoRA")
    outer = {"CLIP": transformers.CLIPVisionModel, "Sigl": transformers.SiglipVisionModel}[type(plain).__name__[:4]]
    outs = []
    for tower in (plain, model):
        whole = outer(tower.config).eval()
        whole.vision_model = tower
        outs.append(whole(pixels(), output_hidden_states=True, output_attentions=True))
    for name in ("hidden_states", "attentions"):
        ours, theirs = (out[name] for out in outs)
        assert len(ours) == {"hidden_states": 4, "attentions": 3}[name]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def padded(dtype=torch.float64):
    """Patches of a whole and of a padded image; what the padding holds; mask and extents."""
    patches = torch.randn(2, 16, 192, dtype=dtype, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 16, dtype=torch.int32)
    mask[1, 12:] = 0
    return patches, mask, torch.tensor([[4, 4], [3, 4]])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("method", ["LoRA", "VPTDeep", "VPTShallow", "PrefixTuning", "AdaptFormer", "PATT"])
def test_padding_stays_hidden(method, attention):
    """What stands in the padding changes nothing of an image, with prompts and prefixes as without."""
    options = {"cls": "Siglip2VisionModel", "num_patches": 16, "attention": attention}
    model = vpeft.attach(build("transformers.SiglipVisionTransformer", **options), method)
    perturb(model)
    patches, mask, extents = padded()
    out = model(patches, mask, extents)
    other = patches.clone()
    other[1, 12:] += 1
    again = model(other, mask, extents)
    torch.testing.assert_close(out.last_hidden_state[:, :12], again.last_hidden_state[:, :12])
    torch.testing.assert_close(out.pooler_output, again.pooler_output)
    alone = model(patches[1:, :12], mask[1:, :12], extents[1:])
    tolerance = {"atol": 1e-5, "rtol": 1e-4}  # positions are resized, and eager attention taken, in float32
    torch.testing.assert_close(out.last_hidden_state[1:, :12], alone.last_hidden_state, **tolerance)
    with record_attention(model) as maps:
        model(patches, mask, extents)
    assert maps[0].weights[1, ..., -4:].max() == 0


def test_maps_of_images_of_different_extents_are_refused():
    options = {"cls": "Siglip2VisionModel", "num_patches": 16}
    model = vpeft.attach(build("transformers.SiglipVisionTransformer", **options), "Mona")
    patches, _, extents = padded()
    with pytest.raises(vpeft.UserError, match="lie on no one map"):
        model(*padded())
    out = model(patches, torch.ones(2, 16, dtype=torch.int32), torch.tensor([[2, 8], [2, 8]]))
    assert out.last_hidden_state.shape == (2, 16, 64)
    assert model.peft_adaptation.host.flow.grid == (2, 8)
    assert extents.shape == (2, 2)


def test_what_a_recording_call_leaves_does_not_stand_above_the_sites():
    """transformers puts ``forward`` on the layers themselves while it records hidden states, and leaves it there."""
    net, images = transformers.ViTModel(transformers.ViTConfig(**SMALL)).eval(), pixels()
    before = net(images, output_hidden_states=True).last_hidden_state
    assert "forward" in vars(net.encoder.layer[0])
    vpeft.attach(net, {"type": "Mona", "bottleneck": 2})
    perturb(net)
    for _ in range(2):  # it records again
        assert not torch.equal(net(images, output_hidden_states=True).last_hidden_state, before)
    vpeft.detach(net)
    assert torch.equal(net(images, output_hidden_states=True).last_hidden_state, before)
    layer = net.encoder.layer[1]
    layer.forward = lambda *args, own=layer.forward, **kwargs: own(*args, **kwargs)
    with pytest.raises(vpeft.UserError, match="was replaced on the module itself, and a method attached to it would"):
        vpeft.attach(net, "Mona")
