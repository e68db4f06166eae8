"""Matrices of few bits: the levels, the quantiser against a plain re-statement, and their bytes."""

import math
from itertools import pairwise
from statistics import NormalDist

import pytest
import torch

from vpeft.core.adaptation.options.packed import levels, quantised, values_of
from vpeft.core.adaptation.storing.bits import CODES, LEVELS, pack_tensors, unpack_tensors
from vpeft.errors import UserError

#: The upper half of the levels of least squared error for a normal variable (Max 1960, Table I).
MAX = {
    1: [0.7980],
    2: [0.4528, 1.510],
    3: [0.2451, 0.7560, 1.344, 2.152],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.256, 1.618, 2.069, 2.733],
}
NORMAL = NormalDist()


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_levels_of_least_squared_error_are_those_of_the_table(bits):
    found = levels(bits, "squared")
    assert found[2 ** (bits - 1) :] == pytest.approx(MAX[bits], abs=6e-4)
    assert found[: 2 ** (bits - 1)] == pytest.approx([-x for x in reversed(MAX[bits])], abs=6e-4)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_levels_of_least_absolute_error_are_medians_of_their_cells(bits):
    """The fixed point of the authors' iteration, and below the others in the error that they make least."""
    found = levels(bits)
    edges = [-math.inf, *((a + b) / 2 for a, b in pairwise(found)), math.inf]
    for level, (low, high) in zip(found, pairwise(edges), strict=True):
        assert NORMAL.cdf(level) == pytest.approx((NORMAL.cdf(low) + NORMAL.cdf(high)) / 2, abs=1e-9)
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    errors = {e: (x[:, None] - torch.tensor(levels(bits, e))).abs().min(1).values for e in ("absolute", "squared")}
    assert errors["absolute"].mean() < errors["squared"].mean()
    assert errors["absolute"].square().mean() > errors["squared"].square().mean()
    if bits == 1:
        assert found == pytest.approx((-0.6745, 0.6745), abs=1e-4)


def plain(w, bits, error):
    """``q(w_n) s + m`` with the nearest level by comparison with all of them."""
    mean, std = w.mean(), w.std()
    normal = (w - mean) / (std + 1e-5)
    table = torch.tensor(levels(bits, error), dtype=w.dtype)
    nearest = table[(normal.unsqueeze(-1) - table).abs().argmin(-1)]
    return nearest, normal, mean, std


@pytest.mark.parametrize("error", ["absolute", "squared"])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_quantised_is_the_equation(bits, error):
    torch.manual_seed(bits)
    w = (0.3 * torch.randn(9, 14, dtype=torch.float64) - 0.02).requires_grad_()
    upstream = torch.randn(9, 14, dtype=torch.float64)
    nearest, normal, mean, std = plain(w, bits, error)
    torch.testing.assert_close(quantised(w, bits, error), nearest * std + mean, rtol=1e-12, atol=1e-12)
    # Straight through: d/dw of `c(w_n) s + m` with dc = dw_n, the levels in c's place where c itself is a factor.
    (got,) = torch.autograd.grad(quantised(w, bits, error), w, upstream)
    outward = [upstream * std.detach(), (upstream * nearest).sum(), upstream.sum()]
    (expected,) = torch.autograd.grad([normal, std, mean], w, outward)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert quantised(w, bits, error).unique().numel() <= 2**bits


def test_one_matrix_gives_one_result_in_every_precision():
    w = torch.randn(40, 33, generator=torch.Generator().manual_seed(1))
    assert torch.equal(quantised(w.double(), 2).float(), quantised(w, 2))


def test_what_is_quantised_stays_as_it_is_outside_training():
    w = torch.randn(40, 33, generator=torch.Generator().manual_seed(2))
    for bits in (1, 2, 3, 4):
        once = values_of(w, bits)
        assert torch.equal(once, quantised(w, bits))
        assert torch.equal(values_of(once, bits), once)
        assert not torch.equal(quantised(once, bits), once)
    assert torch.equal(values_of(torch.zeros(3, 4), 1), torch.zeros(3, 4))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_packed_bytes_give_the_matrix_back(bits):
    torch.manual_seed(3)
    matrices = {name: values_of(torch.randn(*shape), bits) for name, shape in {"a": (7, 5), "b": (3, 4, 2)}.items()}
    matrices["half"] = values_of(torch.randn(6, 6).bfloat16(), bits)
    tensors = {"bias": torch.randn(4), **{name: torch.randn(*m.shape) for name, m in matrices.items()}}
    packed, rows = pack_tensors(tensors, {name: (m, bits) for name, m in matrices.items()})
    assert list(packed) == ["bias", CODES, LEVELS]
    assert packed[CODES].numel() == sum(math.ceil(m.numel() * bits / 8) for m in matrices.values())
    assert packed[LEVELS].numel() <= 3 * 2**bits
    back = unpack_tensors(packed, rows, "x")
    assert back.keys() == tensors.keys()
    for name, matrix in matrices.items():
        assert back[name].dtype == matrix.dtype
        assert torch.equal(back[name], matrix)
    for wrong in ([*rows, rows[0]], rows[1:], [["a", "float32", [7, 50], bits, 2], *rows[1:]]):
        with pytest.raises(UserError, match="packed matrices are not as it says"):
            unpack_tensors(packed, wrong, "x")
