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


def test_the_norm_of_dora_is_a_constant_for_the_gradient():
    plain, x = undropped().eval(), inputs(VIT, dtype=torch.float64)
    model = perturb(vpeft.attach(undropped(), {"type": "DoRA", "rank": 2, "alpha": 3.0, "targets": ["fc1"]})).eval()
    trained = {name: p for name, p in model.named_parameters() if ".peft." in name}
    model.head = plain.head = torch.nn.Identity()
    model(x).square().sum().backward()
    own = {name: p.detach().clone().requires_grad_() for name, p in trained.items()}
    weights = {}
    for i, block in enumerate(plain.blocks):
        place = f"blocks.{i}.peft.dora.fc1"
        base = block.mlp.fc1.weight.detach()
        rows = base + 3.0 / 2 * own[f"{place}.up.fc1"] @ own[f"{place}.down.fc1"]
        gains = own[f"{place}_magnitude.magnitude.fc1"] / rows.detach().norm(dim=1)
        weights[f"blocks.{i}.mlp.fc1.weight"] = gains[:, None] * rows
    torch.func.functional_call(plain, weights, (x,)).square().sum().backward()
    assert len(own) == 3 * len(plain.blocks)
    for name, value in own.items():
        torch.testing.assert_close(trained[name].grad, value.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_arc_shares_within_a_stage_and_not_over_stages():
    """Whatever their widths: those of a Swin tell its stages apart already."""
    from timm.models.convnext import ConvNeXt

    model = vpeft.attach(ConvNeXt(depths=(2, 1, 1, 1), dims=(8, 8, 8, 8)), {"type": "ARC", "bottleneck": 2})
    shared = [name for name, _ in model.named_parameters() if name.startswith("peft.arc.")]
    assert len(shared) == 4
