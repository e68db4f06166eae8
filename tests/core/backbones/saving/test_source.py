"""The output of an activation is made again from its input: the same gradient to the bit, fewer bytes."""

import pytest
import torch
import torch.nn.functional as F
from support.memory import TOKENS, WIDTH, batch, floor_bytes, saved_bytes, small_vit
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import vpeft
from vpeft.core.backbones.saving.normalised import MadeActivation
from vpeft.core.backbones.saving.source import made_again, mark_made

LORA = {"type": "LoRA", "targets": ["fc2"], "rank": 8}


def attached(method) -> nn.Module:
    torch.manual_seed(1)
    model = vpeft.attach(small_vit(), method)
    for name, param in model.named_parameters():
        if ".up." in name:
            nn.init.normal_(param, std=0.02)
    return model


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    images, labels = batch()
    torch.manual_seed(2)
    F.cross_entropy(model(images), labels).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_lora_on_fc2_keeps_its_codes_alone():
    # In the first block, before which nothing is trained, no activation keeps its input: A keeps the output (4 widths),
    # and in the place of what the floor keeps there (10 widths, two norms' and the softmax's numbers) nothing else.
    first = TOKENS * (10 * WIDTH + 4 + 3)
    head = TOKENS * WIDTH
    ours = floor_bytes(small_vit()) + 4 * (2 * TOKENS * 8 + head + 4 * TOKENS * WIDTH - first)
    assert saved_bytes(attached(LORA)) == ours


@pytest.mark.parametrize("method", [LORA, {"type": "LoRA", "targets": ["fc2"], "drop": 0.3}, {"type": "KronA"}])
def test_gradients_are_those_of_what_was_kept(method, monkeypatch):
    ours = gradients(attached(method))
    monkeypatch.setattr(MadeActivation, "forward", lambda self, x: F.gelu(x))
    theirs = gradients(attached(method))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_norm_that_keeps_its_input_has_its_output_made_again():
    # Trained norms keep their input for their own weights; the input of qkv is then the norm of it.
    method = {"type": "LoRA", "targets": ["qkv"], "rank": 8, "extra": ["norm"]}
    trained = saved_bytes(attached({"type": "LNTune"}))
    assert saved_bytes(attached(method)) == trained + 4 * 2 * TOKENS * 8


def test_what_was_written_into_is_kept_itself():
    x = torch.randn(2, 5, requires_grad=True)
    weight = torch.randn(3, 5, requires_grad=True)
    seen = []
    for written in (False, True):
        h = x * 1
        y = mark_made(F.gelu(h), F.gelu, h)
        if written:
            y.mul_(2)
        with saved_tensors_hooks(lambda t: seen.append(t.shape) or t.detach(), lambda t: t), made_again(y):
            z = F.linear(y, weight)
        grad = torch.autograd.grad(z.sum(), weight)[0]
        assert torch.equal(grad, (F.gelu(x) * (1 + written)).sum(0).expand(3, 5))


def test_checkpointing_goes_around_it():
    model = attached({"type": "LoRA", "targets": ["qkv", "fc1", "fc2"], "rank": 4})
    images, labels = batch()
    plain = gradients(model)
    model.zero_grad(set_to_none=True)
    F.cross_entropy(checkpoint(model, images, use_reentrant=False), labels).backward()
    again = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert all(torch.equal(plain[name], again[name]) for name in plain)
