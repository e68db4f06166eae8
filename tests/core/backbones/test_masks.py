"""Masks of padded images: padding changes nothing of what is left, whatever is attached."""

import pytest
import torch
from support.hosts import build, inputs, perturb

import vpeft
from vpeft.apis.testing.hosts.timm.streams.naflexvit import patches
from vpeft.extension.attention.record import record_attention
from vpeft.registry import PEFT_METHODS

OPTIONS = {
    "products": {"fused": False},
    "rope": {"rope_type": "axial", "use_key_only_attn_mask": True, "reg_tokens": 1},
    "mean": {"rope_type": "mixed", "global_pool": "avg"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_padding_changes_nothing(options):
    images = inputs("timm.NaFlexVit", dtype=torch.float64)
    both, alone = patches(images, [(4, 4), (3, 4)]), patches(images[1:], [(3, 4)])
    passed, refused = set(), {}
    for method in sorted(PEFT_METHODS.module_dict):
        torch.manual_seed(0)
        model = build("timm.NaFlexVit", **options)
        try:
            vpeft.attach(model, {"type": method, "pool_prompts": False} if method.startswith("VPT") else method)
            perturb(model).eval()
            with torch.no_grad():
                torch.testing.assert_close(model(both)[1:], model(alone), rtol=1e-9, atol=1e-11)
                tokens = model.forward_features(**both)["patches"]
                own = model.forward_features(**alone)["patches"]
            torch.testing.assert_close(tokens[1:, : own.shape[1]], own, rtol=1e-9, atol=1e-11)
            passed.add(method)
        except vpeft.UserError as error:
            refused[method] = str(error)
    assert {"LoRA", "AdaptFormer", "BitFit", "VPTDeep", "VPTShallow", "SSF", "PrefixTuning"} <= passed
    assert len(passed) > 20
    assert all("lie on no one map" in refused[method] for method in ("Mona", "Convpass", "DTL+"))
    assert all("looks at all tokens by itself" in refused[method] for method in ("LST", "LAST"))


def test_the_mean_over_prompts_needs_a_whole_map():
    model = vpeft.attach(build("timm.NaFlexVit", global_pool="avg"), {"type": "VPTDeep", "prompt_length": 2})
    images = inputs("timm.NaFlexVit", dtype=torch.float64)
    assert model(images).shape == (2, 5)
    assert model(patches(images, [(4, 4), (4, 4)])).shape == (2, 5)
    with pytest.raises(vpeft.UserError, match="pool_prompts=False"):
        model(patches(images, [(4, 4), (3, 4)]))


def test_weights_for_resized_patches_are_not_called():
    images = inputs("timm.NaFlexVit", dtype=torch.float64)
    given = patches(images, [(4, 4), (4, 4)])
    given["patches"] = given["patches"].unflatten(-1, (8, 8, 3))
    plain = build("timm.NaFlexVit", enable_patch_interpolator=True)
    lora = vpeft.attach(build("timm.NaFlexVit", enable_patch_interpolator=True), "LoRA")
    assert torch.equal(lora(given), plain(given))
    ssf = vpeft.attach(build("timm.NaFlexVit", enable_patch_interpolator=True), "SSF")
    with pytest.raises(vpeft.UserError, match="not called: give flat patches"):
        ssf(given)


@pytest.mark.parametrize("kind", [torch.bool, torch.float64])
@pytest.mark.parametrize("method", ["VPTDeep", "PrefixTuning"])
def test_a_mask_holds_for_what_is_added(method, kind):
    """Tokens that nothing sees leave no trace in the others, prompts and prefixes among them."""
    hidden = torch.zeros(17, 17, dtype=torch.bool)
    hidden[:, 9:] = True
    mask = ~hidden if kind is torch.bool else torch.zeros(17, 17, dtype=kind).masked_fill(hidden, float("-inf"))
    model = perturb(vpeft.attach(build("timm.VisionTransformer"), method)).eval()
    x = inputs("timm.VisionTransformer", dtype=torch.float64)
    other = x.clone()
    other[:, :, 16:] += 1.0  # the two last rows of patches
    with torch.no_grad(), record_attention(model) as kept:
        out, changed = (model.forward_features(images, attn_mask=mask) for images in (x, other))
    assert torch.equal(out[:, :9], changed[:, :9])
    assert not torch.equal(out[:, 9:], changed[:, 9:])
    assert all(bool((a.weights[..., -8:] == 0).all()) for a in kept.values())
    assert not torch.allclose(out[:, :9], model.forward_features(x)[:, :9])


@pytest.mark.parametrize("method", ["LST", "LAST"])
def test_a_side_network_sees_no_padding(method):
    """In transformers too, whose SigLIP 2 pads."""
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = Siglip2VisionModel(Siglip2VisionConfig(**sizes, patch_size=4, num_patches=16)).eval()
    vpeft.attach(model, method)
    given = {"pixel_values": torch.randn(2, 6, 48), "spatial_shapes": torch.tensor([[2, 3], [2, 2]])}
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    with pytest.raises(vpeft.UserError, match="looks at all tokens by itself"):
        model(**given, pixel_attention_mask=mask)
