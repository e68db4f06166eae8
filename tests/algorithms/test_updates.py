"""What updates of weights do beside their equation: what they drop, refuse and learn while they are trained."""

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens

import vpeft

VIT = "timm.VisionTransformer"


def undropped():
    """A tiny ViT whose own branches are never dropped."""
    model = build(VIT)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    return model


@pytest.mark.parametrize("method", [{"type": "OFT"}, {"type": "BOFT", "gains": False}], ids=lambda m: m["type"])
def test_dropped_blocks_of_a_rotation_are_the_identity(method):
    plain, x = undropped(), inputs(VIT, dtype=torch.float64)
    model = perturb(vpeft.attach(undropped(), {**method, "drop": 1.0}))
    assert not torch.allclose(tokens(model.eval(), x), tokens(plain.eval(), x))
    torch.testing.assert_close(tokens(model.train(), x), tokens(plain.train(), x), rtol=1e-12, atol=1e-12)
    half = perturb(vpeft.attach(undropped(), {**method, "drop": 0.5})).train()
    assert not torch.allclose(tokens(half, x, seed=1), tokens(half, x, seed=2))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"type": "OFT", "block": 7}, "OFT: block=7 does not divide the 64 inputs"),
        (
            {"type": "BOFT", "block": 8, "factors": 5},
            r"BOFT: block=8, factors=5: block \* 2\^\(factors - 1\) must divide",
        ),
        ({"type": "Consolidator", "groups": 48}, "groups=48 must divide the 64 inputs and 192 rows of a target"),
        ({"type": "SNELL", "rank": 7}, "SNELL: rank=7 must be even"),
        ({"type": "BOFT", "block": 1, "factors": 1}, "BOFT: block=1 must be a whole number from 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(method, message):
    with pytest.raises(vpeft.UserError, match=message):
        vpeft.attach(build(VIT), method)


@pytest.mark.parametrize("method", [{"type": "Consolidator"}, {"type": "SNELL", "drop": 0.0}], ids=lambda m: m["type"])
def test_the_branch_is_left_out_for_whole_samples(method):
    plain, x = undropped(), inputs(VIT, count=8, dtype=torch.float64)
    model = perturb(vpeft.attach(undropped(), {**method, "drop_path": 0.9, "targets": ["fc2"], "blocks": 1})).train()
    changed = (tokens(model, x, seed=1) - tokens(plain.train(), x)).abs().amax((1, 2))
    left = sum(change == 0 for change in changed)
    assert 0 < left < 8
    assert 10 * min(one for one in changed if one) > max(changed)


def test_entries_that_stay_in_a_pass_stay_where_it_merges():
    """In float32 the quantile may fall between entries that float64 tells apart."""
    model = perturb(vpeft.attach(build(VIT, torch.float32), {"type": "SNELL", "rank": 8})).eval()
    module = model.blocks[0].peft.snell.fc1
    entries = module.dense("fc1") != 0
    assert torch.equal(module.affine()[0] != 0, entries)
    assert entries.float().mean().item() == pytest.approx(0.1, abs=1e-3)
