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
        ({"type": "BOFT", "block": 1, "factors": 1}, "BOFT: block=1 must be a whole number from 2"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(method, message):
    with pytest.raises(vpeft.UserError, match=message):
        vpeft.attach(build(VIT), method)
