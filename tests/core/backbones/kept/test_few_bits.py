"""Matrices in few bits: their error and size, a linear's gradient, and that they stay what they are in a module."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from vpeft.core.backbones.kept.few_bits import FewBits, dense, group_of, quantise, replace

KINDS = ("int8", "int4")


def digests(values):
    return {"float32": str(tuple(values.shape))}


def linear(kind, width=128, out=48):
    torch.manual_seed(0)
    made = nn.Linear(width, out)
    replace(made.weight, quantise(made.weight, kind, digests))
    return made


@pytest.mark.parametrize(("kind", "most", "bits"), [("int8", 0.004, 8.25), ("int4", 0.068, 4.625)])
def test_error_and_size(kind, most, bits):
    """Rows of 128: a float32 scale a row, or 4 + 1 bytes for 64 weights."""
    torch.manual_seed(0)
    values = torch.rand(48, 128) * 2 - 1
    kept = quantise(values, kind)
    error = ((kept.read() - values).norm() / values.norm()).item()
    assert most / 2 < error < most
    assert kept.stored_bytes() * 8 == bits * values.numel()
    step = kept.scale if kind == "int8" else kept.scale.repeat_interleave(64, 1)
    assert ((kept.read() - values).abs() <= step * (0.5 + 1e-5) + (0 if kind == "int8" else step * 0.5)).all()


def test_rows_that_cannot_be_cut():
    assert [group_of(width) for width in (192, 96, 24)] == [64, 32, None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_computes_and_hands_gradients_on_as_a_whole_one(kind, dtype):
    few = linear(kind).to(dtype)
    whole = nn.Linear(128, 48, dtype=dtype)
    whole.load_state_dict({key: dense(value) for key, value in few.state_dict().items()})
    x = torch.randn(2, 5, 128, dtype=dtype)
    got, want = x.clone().requires_grad_(), x.clone().requires_grad_()
    assert torch.equal(few(got), whole(want))
    few(got).square().sum().backward()
    whole(want).square().sum().backward()
    assert torch.equal(got.grad, want.grad)
    torch.testing.assert_close(few.bias.grad, whole.bias.grad)
    assert few.weight.grad is None
    with torch.autocast("cpu", torch.bfloat16):
        assert few(x).dtype is torch.bfloat16


def test_backward_keeps_no_whole_matrix():
    few, x, kept = linear("int8", 256, 1024), torch.randn(1, 256, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.nbytes) or t, lambda t: t):
        few(x).sum().backward()
    assert sum(kept) < 256 * 1024


@pytest.mark.parametrize("kind", KINDS)
def test_it_stays_what_it_is_in_a_module(kind):
    few, x = linear(kind), torch.randn(3, 128)
    param, want = few.weight, few(x)
    assert isinstance(param, nn.Parameter)
    assert not param.requires_grad
    torch.save(few.state_dict(), io.BytesIO())
    for other in (copy.deepcopy(few), pickle.loads(pickle.dumps(few))):
        assert isinstance(other.weight, FewBits)
        assert isinstance(other.weight, nn.Parameter)
        assert torch.equal(other(x), want)
        assert other.weight.origin == {"float32": "(48, 128)"}
    few.double().float()
    assert few.weight is param
    assert torch.equal(few(x), want)
    for read in (param.T.T, param[:48] * 1, param.abs() * param.sign(), torch.cat([param])):
        assert type(read) is torch.Tensor
        assert torch.equal(read, param.read())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_quantised_and_what_is_merged_is_not(kind):
    few, version = linear(kind), linear(kind).weight._version
    values = torch.randn(48, 128)
    few.load_state_dict({"weight": values, "bias": few.bias})
    assert few.weight._version > version
    assert torch.equal(few.weight.read(), quantise(values, kind).read())
    nn.init.ones_(few.weight)
    assert torch.equal(few.weight.read(), torch.ones(48, 128))
    few.weight.whole = torch.zeros(48, 128)
    few.load_state_dict({"weight": values, "bias": few.bias})
    assert torch.equal(few.weight.read(), values)


def test_the_codes_of_a_row_by_hand():
    values = torch.tensor([[-1.0, 0.0, 0.5, 2.0] * 16])
    eight, four = quantise(values, "int8"), quantise(values, "int4")
    assert eight.codes[0, :4].tolist() == [-64, 0, 32, 127]  # w / (2 / 127), a half to the even one
    assert eight.scale.item() == pytest.approx(2 / 127)
    assert four.codes[0, :2].tolist() == [0 | 5 << 4, 7 | 15 << 4]  # step 3 / 15, zero at 5
    assert (four.zero.item(), four.scale.item()) == (5, pytest.approx(0.2))
