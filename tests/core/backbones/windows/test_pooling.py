"""Hiera: queries pooled inside their windows, and what goes with them where a stage begins."""

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.core.backbones.find import find_host
from vpeft.core.backbones.recording import record_streams
from vpeft.extension.attention.record import record_attention

HIERA = ["transformers.Sam2HieraDetModel", "timm.HieraDet", "transformers.HieraModel", "timm.Hiera"]


@pytest.mark.parametrize("host", HIERA)
def test_a_stage_begins_with_another_width_and_map(host):
    blocks = find_host(build(host)).blocks
    assert [(b.stage, b.dim_in, b.dim, b.heads) for b in blocks] == [
        (0, 64, 64, 2),
        (1, 64, 128, 4),
        (1, 128, 128, 4),
        (2, 128, 256, 8),
    ]
    assert [("skip" in b.sites) for b in blocks] == [False, True, False, True]
    model = build(host)
    vpeft.attach(model, "Mona")
    view, seen = model.peft_adaptation.host, []
    sites = [block.sites["attn_residual"] for block in view.blocks]
    with record_streams(view, [(site, lambda x, flow: seen.append((x.shape[1], *flow.hw))) for site in sites]):
        model(inputs(host, dtype=torch.float64))
    assert seen == [(256, 16, 16), (64, 8, 8), (64, 8, 8), (16, 4, 4)]


@pytest.mark.parametrize("host", HIERA)
def test_prompts_pass_the_projection_and_are_not_pooled(host):
    model = build(host)
    x = inputs(host, dtype=torch.float64)
    plain = tokens(model, x)
    vpeft.attach(model, {"type": "VPTDeep", "prompt_length": 3})
    prompts = [p for key, p in model.named_parameters() if "prompts" in key]
    assert [tuple(p.shape) for p in prompts] == [(3, 64), (3, 64), (3, 128), (3, 128)]
    even = [i for i, block in enumerate(model.peft_adaptation.host.blocks) if block.module.site_is_even]
    with record_attention(model, even) as kept:
        out = tokens(perturb(model), x)
    assert out.shape == plain.shape
    assert not torch.equal(out, plain)
    assert {i: a.prefix for i, a in kept.items()} == {0: 3, 2: 3}
    assert all(torch.allclose(a.weights.sum(-1), torch.ones_like(a.weights[..., 0])) for a in kept.values())


@pytest.mark.parametrize("host", HIERA)
def test_what_does_not_fit_a_stages_start_is_refused(host):
    for method, words in (
        ("Convpass", "takes no placement 'beside'"),
        ("DTL", "block 1 of .* takes the width 64 and gives 128"),
        ("KronA", "LoRA attaches there"),
    ):
        with pytest.raises(vpeft.UserError, match=words):
            vpeft.attach(build(host), method)
