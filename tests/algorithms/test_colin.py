"""CoLin: its start, and its loss in models with and without a head of classes."""

import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from support.hosts import perturb

import vpeft
from vpeft.algorithms.adapter.shared.colin import CoLinAdapter
from vpeft.apis.testing.hosts.mmpretrain.vit import ARCH
from vpeft.core.adaptation.training.losses import add_losses

NAMES = ("left", "right")


def factors(module):
    return [getattr(part, name).detach() for part in (module.down, module.up) for name in NAMES]


def test_one_term_of_full_rank_starts_as_a_drawn_linear():
    """A and B are singular vectors, so orthonormal; with g they are a weight that is uniform in 1 / sqrt(fan in)."""
    torch.manual_seed(0)
    module = CoLinAdapter(64, 100, 64, 1).double()
    a1, b1, a2, b2 = factors(module)
    for gram in (a1.T @ a1, b1 @ b1.T, a2.T @ a2, b2 @ b2.T):
        torch.testing.assert_close(gram, torch.eye(64, dtype=gram.dtype), rtol=0, atol=1e-5)
    assert float(module.down.distance().detach()) < 1e-8
    assert 0.0999 < (a2 @ torch.diag(module.gains.detach()[0]) @ b2).abs().max() < 0.1 + 1e-6


def test_the_vectors_of_several_terms_are_means():
    """Of four random sets of singular vectors: a fourth of the unit matrix."""
    torch.manual_seed(0)
    module = CoLinAdapter(256, 100, 28, 4)
    for matrix in (module.down.left, module.up.right.T):
        gram = (matrix.T @ matrix).detach()
        torch.testing.assert_close(gram.diag().mean(), torch.tensor(0.25), rtol=0, atol=0.02)
        assert (gram - gram.diag().diag()).abs().mean() < 0.05


class Dense(torch.nn.Module):
    """A model of maps: no linear outside its backbone."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, torch.nn.Conv2d(64, 3, 1)

    def loss(self, inputs, data_samples=None):
        out = self.backbone(inputs)[-1]
        return {"loss": self.head(out[..., None, None]).square().mean()}


def classifier(method):
    backbone = {"type": "VisionTransformer", "arch": ARCH, "img_size": 32, "patch_size": 8}
    model = ImageClassifier(backbone=backbone, head={"type": "LinearClsHead", "num_classes": 5, "in_channels": 64})
    return perturb(vpeft.attach(model.double(), method)).train()


@pytest.mark.parametrize("head", [True, False])
def test_the_loss_is_that_of_all_matrices(head):
    model = classifier({"type": "CoLin", "bottleneck": 16, "rank": 6, "loss_weight": 0.7})
    if not head:
        model = Dense(model.backbone).double()
    add_losses(model)
    losses = model.loss(torch.randn(2, 3, 32, 32, dtype=torch.float64), [DataSample().set_gt_label(i) for i in (1, 3)])
    assert losses.keys() == {"loss", "loss_orthogonality"}
    expected, modules = 0.0, [m for m in model.modules() if isinstance(m, CoLinAdapter)]
    for module in modules:
        for matrix in factors(module):
            thin = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
            for i in range(6):
                for j in range(6):
                    expected += 0.7 * (float(thin[:, i] @ thin[:, j]) - (i == j)) ** 2
    assert len(modules) == 6
    assert float(losses["loss_orthogonality"]) == pytest.approx(expected, rel=1e-10)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_without_its_weight_there_is_no_gradient_of_it():
    model = classifier({"type": "CoLin", "bottleneck": 16, "rank": 6, "loss_weight": 0})
    add_losses(model)
    losses = model.loss(torch.randn(1, 3, 32, 32, dtype=torch.float64), [DataSample().set_gt_label(2)])
    assert float(losses["loss_orthogonality"]) == 0


def test_a_method_that_reads_scores_needs_a_linear_head():
    model = Dense(classifier({"type": "DyT", "bottleneck": 4}).backbone)
    with pytest.raises(vpeft.UserError, match="no linear head outside its backbone"):
        add_losses(model)
