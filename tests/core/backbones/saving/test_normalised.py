"""Norms that keep their output: the same output to the bit, the same gradient to rounding, fewer bytes."""

import copy
import pickle

import pytest
import timm
import torch
import torch.nn.functional as F
from support.memory import DEPTH, TOKENS, WIDTH, batch, floor_bytes, saved_bytes, small_vit
from torch import nn

import vpeft
from vpeft.core.backbones.saving.normalised import KeptNorm, OutputNorm

NO_DEAD = torch.empty(0, dtype=torch.long)
LORA = {"type": "LoRA", "targets": ["qkv"], "rank": 8}


def affine(width: int = 6, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    return torch.rand(width, dtype=dtype) + 0.5, torch.rand(width, dtype=dtype) - 0.5


def test_the_gradient_is_that_of_the_plain_norm():
    weight, bias = affine()
    x = (3 * torch.randn(4, 5, 6, dtype=torch.float64) + 2).requires_grad_()
    up = torch.randn(4, 5, 6, dtype=torch.float64)
    plain = F.layer_norm(x, (6,), weight, bias, 1e-6)
    y, rstd, _ = OutputNorm.apply(x, weight, bias, 1e-6, NO_DEAD, None)
    assert torch.equal(y, plain)
    assert torch.allclose(rstd.squeeze(-1), (x.var(-1, unbiased=False) + 1e-6).rsqrt(), rtol=1e-12)
    ours, theirs = (torch.autograd.grad(one, x, up)[0] for one in (y, plain))
    assert (ours - theirs).abs().max() < 1e-13
    # The path that can be differentiated again is another one.
    again = torch.autograd.grad(OutputNorm.apply(x, weight, bias, 1e-6, NO_DEAD, None)[0], x, up, create_graph=True)[0]
    assert (again - theirs).abs().max() < 1e-13


@pytest.mark.parametrize("rms", [False, True])
def test_first_and_second_derivatives(rms):
    weight, bias = affine()
    weight[2], bias[4] = 0, 100  # neither channel is found again in the output
    plain = (lambda x: F.rms_norm(x, (6,), weight, 1e-6)) if rms else None
    bias = None if rms else bias

    def norm(x):
        return OutputNorm.apply(x, weight, bias, 1e-6, torch.tensor([2, 4]), plain)

    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, x)
    assert torch.autograd.gradgradcheck(norm, x)


def test_a_channel_that_is_scaled_away_loses_no_digits():
    weight, bias = affine(64, torch.float32)
    weight[:4] = torch.tensor([0.0, 1e-30, 1e-5, -0.02])
    bias[:4] = torch.tensor([0.0, 1e-3, 1.0, 1.0])
    norm = nn.LayerNorm(64).requires_grad_(False)
    norm.weight.data, norm.bias.data = weight, bias
    dead = KeptNorm.site_dead(norm)
    assert dead.tolist() == [0, 1, 2, 3]
    assert KeptNorm.site_dead(norm) is dead  # looked for once
    x, up = torch.randn(2, 9, 64, requires_grad=True), torch.randn(2, 9, 64)
    wide = x.detach().double().requires_grad_()
    truth = torch.autograd.grad(F.layer_norm(wide, (64,), weight.double(), bias.double()), wide, up.double())[0]
    plain = torch.autograd.grad(norm(x), x, up)[0]
    ours = torch.autograd.grad(OutputNorm.apply(x, weight, bias, norm.eps, dead, None)[0], x, up)[0]
    assert (plain - truth).abs().max() < 1e-6
    assert (ours - truth).abs().max() < 1e-6
    with torch.no_grad():
        norm.weight[:4] = 1
    assert KeptNorm.site_dead(norm).tolist() == []


def test_lora_keeps_the_floor_and_its_codes():
    # Kept anew: the code of each token (8), and the one vector of each image that the head reads lies in the output of
    # the last norm. Norm 1 keeps its output, which A reads, in the place of its input, and no mean; in the first block,
    # before which nothing is trained, it keeps nothing itself, and A its output.
    ours = saved_bytes(vpeft.attach(small_vit(), LORA))
    head = TOKENS * WIDTH
    assert ours == floor_bytes(small_vit()) + 4 * (DEPTH * TOKENS * 8 + head - TOKENS * (2 + DEPTH - 1))


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ({"type": "AttentionTune"}, 0),  # nothing placed: the plain norm
        ({"type": "LNTune"}, 0),  # its scale is trained
        ({"type": "BitFit"}, 0),
        ({"type": "LoRA", "targets": ["proj"], "rank": 8}, 0),  # the norm's output is not read
        ({"type": "LoRA", "targets": ["qkv", "fc1"], "rank": 8}, 2),
    ],
)
def test_where_norms_keep_their_output(method, numbers, monkeypatch):
    calls = []
    apply = OutputNorm.apply
    monkeypatch.setattr(OutputNorm, "apply", lambda *args: calls.append(1) or apply(*args))
    model = vpeft.attach(small_vit(), method)
    images, labels = batch()
    F.cross_entropy(model(images), labels).backward()
    assert len(calls) == max(0, DEPTH * numbers - 1)  # before the first factor there is no gradient
    calls.clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(images)
    with torch.no_grad():
        model(images)
    with vpeft.disabled(model):
        model(images)
    vpeft.merge(model) if method["type"] == "LoRA" else None
    model.eval()(images)
    assert not calls


def test_a_step_is_that_of_the_plain_norms(monkeypatch):
    images, labels = batch()
    results = []
    for kept in (True, False):
        model = vpeft.attach(small_vit(), {"type": "LoRA", "targets": ["qkv", "fc1"], "rank": 4})
        torch.manual_seed(1)
        for name, param in model.named_parameters():
            if ".up." in name:
                nn.init.normal_(param, std=0.02)
        if not kept:
            monkeypatch.setattr(KeptNorm, "site_is_read", lambda self, x: False)
        y = model.double()(images.double())
        F.cross_entropy(y, labels).backward()
        results.append((y, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, grad in results[0][1].items():
        assert (grad - results[1][1][name]).abs().max() <= 1e-12 * grad.abs().max().clamp(min=1e-3), name


def test_classes_come_and_go():
    model = small_vit()
    vpeft.attach(model, LORA)
    norm = model.blocks[1].norm1
    assert isinstance(norm, KeptNorm)
    assert type(norm).__name__ == "LayerNorm"
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(batch()[0]), model(batch()[0]))
        assert other.blocks[1].norm1.peft_sites is other.blocks[1].peft_sites
    vpeft.detach(model)
    assert type(norm) is type(small_vit().blocks[1].norm1)
    assert not [name for name in vars(norm) if name.startswith("peft_")]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_swin_and_checkpointing(checkpointing):
    torch.manual_seed(0)
    small = {"img_size": 56, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 16}
    model = timm.create_model("swin_tiny_patch4_window7_224", **small)
    vpeft.attach(model, {"type": "LoRA", "targets": ["qkv", "fc1"], "rank": 2})
    norms = [block.norm2 for layer in model.layers for block in layer.blocks]
    assert [site.name for site in norms[0].peft_readers] == ["fc1", "mlp_branch"]
    assert [site.name for site in model.layers[0].blocks[0].norm1.peft_readers] == ["attn_branch"]
    model.set_grad_checkpointing(checkpointing)
    model(torch.randn(1, 3, 56, 56)).square().mean().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if ".up." in name)
