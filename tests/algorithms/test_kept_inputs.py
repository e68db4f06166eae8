"""Mona and HST keep what their gradients cannot be without; the rest is made again, to the bit."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from support.hosts import again, inputs, loss, perturb, tokens, trained
from support.memory import batch, small_vit
from torch.autograd.graph import saved_tensors_hooks

import vpeft
from vpeft.algorithms.adapter.convolution import mona
from vpeft.algorithms.side import hst
from vpeft.core.backbones.sites.flow import Flow


def numbers_kept(model, run) -> int:
    """Numbers in the storages that autograd keeps of a run, the model's own left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes() // t.element_size()
        return t.detach()

    with saved_tensors_hooks(pack, lambda t: t):
        run()
    return sum(found.values())


def flow_of(prefix: int, *grid: int) -> Flow:
    flow = Flow()
    flow.grid, flow.prefix, flow.own_prefix = grid, prefix, prefix
    return flow


def test_mona_keeps_its_input_once():
    module, x = mona.MonaAdapter(48, 8, 0.1, "official").train(), torch.randn(2, 17, 48, requires_grad=True)
    # The input; mean and deviation; the code before the convolutions (also of the class token), between them (of the
    # map), before GELU, the mask of dropout and what it left; and the one depthwise kernel.
    per_token = 48 + 2 + 8 + 8 + 8 + 8
    assert numbers_kept(module, lambda: module(x, flow_of(1, 4, 4))) == 2 * (17 * per_token + 16 * 8) + 49 * 8


def test_a_side_step_of_hst_keeps_its_inputs():
    network = hst.SideNetwork(3, 48, [1], 0.0)
    step = hst.Step(network, "hst", (0, 0))
    x, side = torch.randn(2, 18, 48, requires_grad=True), torch.randn(2, 8, 8, 32, requires_grad=True)
    flow = flow_of(2, 4, 4)
    flow.state, flow.index = {"hst": {-1: side}}, 0
    # The stream, of which the meta token and the map are views, and the side tokens.
    assert numbers_kept(network, lambda: step(x, flow)) == 2 * (18 * 48 + 64 * 32)


def gradients(model, x):
    model.zero_grad(set_to_none=True)
    torch.manual_seed(2)
    out = tokens(model, x)
    loss(out).backward()
    return out, {name: p.grad for name, p in trained(model).items()}


@pytest.mark.parametrize(
    ("host", "method"),
    [
        ("timm.VisionTransformer", {"type": "HST", "drop_path": 0.3}),
        ("timm.VisionTransformer", {"type": "Mona", "bottleneck": 4}),
        ("timm.SwinTransformer", {"type": "Mona", "bottleneck": 4}),
        ("mmaction.VisionTransformer", {"type": "Mona", "bottleneck": 4}),
    ],
)
def test_gradients_are_those_of_the_plain_form(host, method, monkeypatch):
    model = perturb(vpeft.attach(again(host), method)).train()
    x = inputs(host, dtype=torch.float64)
    ours = gradients(model, x)
    monkeypatch.setattr(mona, "made_again", lambda x: contextlib.nullcontext())
    monkeypatch.setattr(hst, "checkpoint", lambda function, *given, **settings: function(*given))
    theirs = gradients(model, x)
    assert torch.equal(ours[0], theirs[0])
    assert ours[1].keys() == theirs[1].keys()
    assert all(torch.equal(ours[1][name], theirs[1][name]) for name in ours[1])


@pytest.mark.parametrize("method", ["Mona", "HST"])
def test_activation_checkpointing_goes_around_them(method):
    torch.manual_seed(0)
    model = vpeft.attach(small_vit(), method).train()
    results = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad(set_to_none=True)
        torch.manual_seed(3)
        F.cross_entropy(model(batch()[0]), batch()[1]).backward()
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    assert all(torch.allclose(results[0][name], results[1][name], rtol=1e-4, atol=1e-7) for name in results[0])
