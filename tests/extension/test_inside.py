"""CKA, sizes of updates and structure, on cases worked by hand."""

import json

import pytest
import torch
from support.hosts import build, perturb, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.extension.changes.cka import CKA, block_outputs, frozen_against_tuned, linear_cka, unbiased_hsic
from vpeft.extension.changes.report import matrix
from vpeft.extension.changes.selected import selections
from vpeft.extension.changes.updates import Size, contribution_sizes, ratio, weight_sizes
from vpeft.extension.interpolation.wise import Interpolation

HOST = "mmpretrain.VisionTransformer"


def attached(method):
    model = build(HOST)
    torch.manual_seed(11)
    vpeft.attach(model, method)
    return perturb(model)


def images(count=2):
    return torch.randn(count, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


# CKA ----------------------------------------------------------------------------------------------------------------


def test_hsic_by_hand():
    """n = 4, k and l the indicator of two pairs: off the diagonal 1 at (0, 1) and (2, 3)."""
    pairs = torch.eye(2, dtype=torch.float64).repeat_interleave(2, 0)
    k = pairs @ pairs.t()
    # trace of the product 4; both sums 4, 16 / 6; 1^T K L 1 = 4, times 2 / 2; over n (n - 3) = 4.
    assert unbiased_hsic(k, k) == pytest.approx((4 + 16 / 6 - 4) / 4)
    others = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]], dtype=torch.float64)  # pairs (0, 2) and (1, 3)
    # No off-diagonal entry in common: trace 0, the sums as before.
    assert unbiased_hsic(k, others @ others.t()) == pytest.approx((0 + 16 / 6 - 4) / 4)
    assert linear_cka(pairs, others) == pytest.approx(-0.5)


def test_unbiased_hsic_is_the_mean_over_distinct_samples():
    """Its definition: a mean over all ordered quadruples of distinct samples."""
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    k, l = x @ x.t(), y @ y.t()  # noqa: E741
    total = count = 0
    for i in range(6):
        for j in range(6):
            for q in range(6):
                for r in range(6):
                    if len({i, j, q, r}) == 4:
                        total += k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q])
                        count += 1
    assert unbiased_hsic(k, l) == pytest.approx(float(total / count))


def test_cka_does_not_mind_rotations_scales_and_shifts():
    x = torch.randn(20, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    assert linear_cka(x, 3 * x @ rotation + 2) == pytest.approx(1)
    assert abs(linear_cka(torch.randn(4000, 2), torch.randn(4000, 2))) < 0.01


def test_batches_are_averaged_before_the_ratio():
    a, b = (torch.randn(4, 8, 3, dtype=torch.float64) for _ in range(2))
    cka = CKA()
    for one, other in zip(a, b, strict=True):
        cka.add([one], [other])
    cka.add([torch.randn(3, 3)], [torch.randn(3, 3)])  # too few: left out
    kernels = [[x @ x.t() for x in batches] for batches in (a, b)]
    sums = [sum(unbiased_hsic(*pair) for pair in zip(p, q, strict=True)) for p, q in _pairs(kernels)]
    assert float(cka.matrix()) == pytest.approx(float(sums[0] / (sums[1] * sums[2]).sqrt()))
    with pytest.raises(vpeft.UserError, match="four samples"):
        CKA().matrix()


def _pairs(kernels):
    a, b = kernels
    return [(a, b), (a, a), (b, b)]


@pytest.mark.parametrize("method", ["VPTDeep", "AdaptFormer"])
def test_block_outputs_have_the_frozen_shapes(method):
    model = attached(method)
    with block_outputs(model) as seen:
        tokens(model, images())
        assert [tuple(x.shape) for x in seen] == [(2, 17, 64)] * 3
        with vpeft.disabled(model):
            frozen = list(seen)
            tokens(model, images())
        assert not torch.equal(frozen[0], seen[0])


# Sizes --------------------------------------------------------------------------------------------------------------


class Stepped(torch.nn.Module):
    """As mmengine's models are called in testing."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def test_step(self, batch):
        return self.backbone(batch)


def test_the_frozen_host_is_held_against_the_tuned_one():
    backbone, batch = attached({"type": "LoRA", "rank": 2}).eval(), images(6)
    with torch.no_grad(), block_outputs(backbone) as seen:
        backbone(batch)
        tuned = list(seen)
        with backbone.peft_adaptation.disabled():
            backbone(batch)
        frozen = list(seen)
    found = frozen_against_tuned(Stepped(backbone), [batch])
    wanted = [[linear_cka(one, other) for other in tuned] for one in frozen]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=found.dtype))
    assert found.diagonal().max() < 0.999  # of a model with itself it is 1


def test_size_of_a_contribution_by_hand():
    """A scale of 1.5 on a branch is a change of half of it, in every block."""
    model = build(HOST)
    vpeft.attach(model, "DiffFit")
    for module in get_adaptation(model).peft_modules():
        torch.nn.init.constant_(module.weight, 1.5)
    sizes = contribution_sizes(model, [images()], lambda x: tokens(model, x))
    assert {size.where for size in sizes} == {"attn_branch (after)", "mlp_branch (after)"}
    assert [size.value for size in sizes] == [pytest.approx(0.5)] * 6


@pytest.mark.parametrize("method", ["VPTDeep", "PrefixTuning", "Convpass", "SNF", "DyT", "PATT", "LST", "Mona"])
@torch.no_grad()
def test_measuring_changes_nothing(method):
    model = attached(method)
    out = tokens(model, images())
    measured = []
    sizes = contribution_sizes(model, [images()], lambda x: measured.append(tokens(model, x)))
    assert all(torch.equal(one, out) for one in measured)
    assert sizes
    assert all(size.value > 0 for size in sizes)
    assert torch.equal(tokens(model, images()), out)


def test_size_of_a_weight_by_hand():
    model = build(HOST)
    vpeft.attach(model, "BitFit")
    norm = get_adaptation(model).host.blocks[1].sites["norm1"].module
    with torch.no_grad():
        norm.bias.mul_(3)
    (size,) = weight_sizes(Interpolation(model, lambda: None))
    assert (size.where, size.block, size.value) == ("norm1 norm_bias", 1, pytest.approx(2))


def test_size_of_a_merged_update_by_hand():
    model = attached({"type": "LoRA", "rank": 2, "targets": ("fc1",)})
    sizes = weight_sizes(Interpolation(model, lambda: None))
    block = get_adaptation(model).host.blocks[2]
    update, _ = block.placed("lora")["fc1"].affine()
    weight = block.sites["fc1"].module.weight
    assert [(s.where, s.block) for s in sizes] == [("fc1.weight", i) for i in range(3)]
    assert sizes[2].value == pytest.approx(float((update.norm() / weight.norm()).detach()))


def test_the_matrix_of_sizes():
    values, names = matrix([Size("a", 0, 3.0), Size("a", 0, 4.0), Size("b", 1, 1.0), Size("c", None, 9.0)], 2)
    assert names == ["a", "b"]
    assert json.dumps(values.tolist()) == "[[5.0, NaN], [NaN, 1.0]]"
    assert (ratio(0, 0), ratio(4, 0), ratio(1, 4)) == (0.0, float("inf"), 0.5)


# Structure ----------------------------------------------------------------------------------------------------------


def test_salient_channels():
    model = attached({"type": "SCT", "channels": 3})
    module = get_adaptation(model).host.blocks[1].placed("sct")["salient"]
    module.index_x.copy_(torch.tensor([5, 60, 7]))
    found = selections(model)
    assert [(s.name, s.block, s.count) for s in found] == [("salient", i, 3) for i in range(3)]
    assert found[1].mask.nonzero().flatten().tolist() == [5, 7, 60]
    assert found[1].share == 3 / 64


def test_selected_entries():
    model = attached({"type": "GPS", "entries": 2})
    one = next(s for s in selections(model) if s.block == 0)
    assert one.mask.sum(1).tolist() == [2] * len(one.mask)
    assert float(one.by_channel.sum()) == one.count
    assert {s.block for s in selections(model)} == {None, 0, 1, 2}  # the patch embedding lies outside the blocks


def test_searched_sizes():
    model = attached({"type": "NOAH", "prompts": (2, 0, 1), "ranks": (1, 2, 3), "widths": (0, 0, 4)})
    counts = {(s.name, s.block): s.count for s in selections(model)}
    assert counts == {
        ("prompt", 0): 2,
        ("prompt", 2): 1,
        ("lora", 0): 1,
        ("lora", 1): 2,
        ("lora", 2): 3,
        ("adapter", 2): 4,
    }


def test_nothing_selected():
    with pytest.raises(vpeft.UserError, match="LoRA selects nothing"):
        selections(attached("LoRA"))
