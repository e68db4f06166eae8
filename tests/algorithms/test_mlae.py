"""MLAE's mask of experts."""

import itertools

import torch

from vpeft.algorithms.reparameter.low_rank.mlae import Experts


def test_a_pass_leaves_out_experts_for_the_whole_batch():
    """Every pass is that of one mask over the experts, the kept ones scaled up by ``1 / (1 - p)``."""
    torch.manual_seed(0)
    experts = Experts((5, 6), {"proj": (0, 6)}, rank=3, alpha=1.0, expert_drop=0.25, drop=0.0).double()
    down, up = (torch.nn.init.normal_(part["proj"]).detach() for part in (experts.down, experts.up))
    weight = torch.nn.init.normal_(experts.weight["proj"]).detach()
    x = torch.randn(4, 7, 5, dtype=torch.float64)
    masks = list(itertools.product((0, 1), repeat=3))
    by_mask = [
        sum(m / 0.75 * w * (x @ a)[..., None] * b for m, w, a, b in zip(mask, weight, down, up.T, strict=True))
        for mask in masks
    ]
    seen = [0] * len(masks)
    for _ in range(400):
        with torch.no_grad():
            y = experts.add_to(torch.zeros(4, 7, 6, dtype=torch.float64), x, None)
        (which,) = [
            i for i, out in enumerate(by_mask) if torch.allclose(y, torch.as_tensor(out), rtol=1e-10, atol=1e-12)
        ]
        seen[which] += 1
    expected = [400 * 0.75 ** sum(mask) * 0.25 ** (3 - sum(mask)) for mask in masks]
    assert all(abs(got - mean) < 4 * mean**0.5 + 1 for got, mean in zip(seen, expected, strict=True))
    matrix, _ = experts.affine()  # also in train mode: of all experts
    torch.testing.assert_close(matrix, up @ torch.diag(weight) @ down)
    experts.eval()
    torch.testing.assert_close(experts.add_to(torch.zeros(4, 7, 6, dtype=torch.float64), x, None), x @ matrix.T)
