"""Hiera's mask units: methods see the map row by row, however the stream is sorted."""

import pytest
import torch
from support.hosts import build, inputs, tokens

import vpeft
from vpeft.core.backbones.recording import record_streams
from vpeft.extension.attention.record import record_attention

HIERA = ["timm.Hiera", "transformers.HieraModel"]


def maps_by_the_library(model, x):
    """Of every block of timm's, of every stage of transformers'."""
    if hasattr(model, "forward_intermediates"):
        return model.forward_intermediates(x, indices=None, coarse=False)[1]
    states = model(x, output_hidden_states=True).reshaped_hidden_states[1:]
    return [None if i == 1 else states[min(i, 1) + (i > 2)].permute(0, 3, 1, 2) for i in range(4)]


@pytest.mark.parametrize("options", [{}, {"one": True}], ids=["all", "one-pooling"])
@pytest.mark.parametrize("host", HIERA)
def test_a_method_sees_the_map(host, options):
    pooled = {"q_pool" if host == "timm.Hiera" else "num_query_pool": 1} if options else {}
    model = build(host, **pooled)
    x = inputs(host, dtype=torch.float64)
    expected = maps_by_the_library(model, x)
    vpeft.attach(model, "Mona")
    view, seen = model.peft_adaptation.host, []

    def look(tokens, flow):
        prefix, spatial = flow.split(tokens)
        assert torch.equal(flow.join(prefix, spatial), tokens)
        seen.append(spatial)

    with record_streams(view, [(block.sites["block"], look) for block in view.blocks]), torch.no_grad():
        tokens(model, x)
    extents = [16, 8, 8, 8] if options else [16, 8, 8, 4]
    assert [tuple(spatial.shape[2:]) for spatial in seen] == [(size, size) for size in extents]
    assert sum(spatial is not None for spatial in expected) >= 3
    for own, spatial in zip(expected, seen, strict=True):
        assert own is None or torch.equal(own, spatial)


@pytest.mark.parametrize("host", HIERA)
def test_attention_lies_on_the_map(host):
    """A unit's tokens are a square of the map, and what is not a unit's own gets nothing."""
    model = build(host)
    vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})
    with torch.no_grad(), record_attention(model, [0, 2]) as kept:
        tokens(model, inputs(host, dtype=torch.float64))
    assert (kept[0].prefix, kept[0].weights.shape) == (3, (2 * 16, 2, 19, 19))
    assert torch.equal(kept[0].places[5].sort().values.view(4, 4)[:, 0], torch.tensor([4, 5, 6, 7]) * 16 + 4)
    given = kept[0].of_token((5, 6))[0].sum(0)
    assert int((given > 0).sum()) == 16
    assert bool((given[4:8, 4:8] > 0).all())
    assert kept[2].places.shape == (1, 64)  # over the whole map, whose tokens are still sorted
    assert kept[2].received().shape == (2, 4, 8, 8)


def test_hidden_units_lie_on_no_map():
    model = build("timm.Hiera")
    x = inputs("timm.Hiera", dtype=torch.float64)
    mask = torch.ones(2, 16, dtype=torch.bool)
    mask[:, ::3] = False
    plain = model(x, mask=mask)
    lora = vpeft.attach(build("timm.Hiera"), "LoRA")
    assert torch.equal(lora(x, mask=mask), plain)
    mona = vpeft.attach(build("timm.Hiera"), "Mona")
    with pytest.raises(vpeft.UserError, match="the tokens of this pass lie on no one map"):
        mona(x, mask=mask)
    assert mona(x).shape == (2, 5)


def test_a_subclass_is_read_by_its_operations():
    """How its tokens are sorted is not known."""
    from timm.models.hiera import Hiera

    class Own(Hiera):
        pass

    model = Own(**{"img_size": (64, 64), "embed_dim": 8, "stages": (1, 1), "q_pool": 1, "mask_unit_size": (4, 4)})
    with pytest.raises(vpeft.UserError, match="need"):
        vpeft.attach(model, "Mona")
    assert vpeft.attach(model, "LoRA") is model


@pytest.mark.parametrize("method", ["LoRA", "Mona"])
def test_the_backbone_class_whose_tokens_are_not_sorted(method):
    """Its library forgets to: the message says what gives the maps."""
    from transformers import HieraBackbone, HieraModel

    config = build("transformers.HieraModel").config
    torch.manual_seed(0)
    model, right = HieraBackbone(config), HieraModel(config)
    right.load_state_dict(model.state_dict(), strict=False)
    x = inputs("transformers.HieraModel")
    wrong = model.encoder(model.embeddings(x)[0], output_hidden_states=True).reshaped_hidden_states
    assert not torch.allclose(wrong[1], right(x, output_hidden_states=True).reshaped_hidden_states[1], atol=0.1)
    whole = torch.nn.Sequential(model)
    with pytest.raises(vpeft.UserError, match=r"^0 is a HieraBackbone, and it hands its blocks .* of='hf/hiera'\.$"):
        vpeft.attach(whole, method)
    assert type(model) is HieraBackbone


def test_checkpointing_of_whole_stages():
    """Not in the re-entrant form: the frozen embedding asks for no gradient, and none would come back."""
    from transformers import HieraForImageClassification

    config = build("transformers.HieraModel").config
    model = HieraForImageClassification(config).double().train()
    vpeft.attach(model, "LoRA")
    x = inputs("transformers.HieraModel", dtype=torch.float64)

    def gradients():
        torch.manual_seed(0)
        model.zero_grad()
        model(x).logits.square().sum().backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    again = gradients()
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    with pytest.raises(vpeft.UserError, match="stages of HieraModel loses gradients"):
        gradients()
