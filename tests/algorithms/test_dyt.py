"""DyT: tokens that are skipped are not computed; its losses."""

import pytest
import torch
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from support.hosts import build, perturb, tokens
from support.refusals import attached

import vpeft
from vpeft.algorithms.adapter.chosen.dyt import DyTLoss
from vpeft.apis.testing.hosts.mmpretrain.vit import ARCH
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.training.losses import MethodLosses, add_losses
from vpeft.registry import HOSTS


def adapted(host, **options):
    model = perturb(attached(host, build(host, **options), {"type": "DyT", "bottleneck": 4}))
    return model.eval()


@pytest.mark.parametrize("host", sorted(HOSTS.module_dict))
def test_no_token_at_all_may_pass(host, images):
    """Where a dispatcher lets none through, the MLP adds nothing; convolutions in it would refuse no places."""
    model = adapted(host)
    for name, param in model.named_parameters():
        if ".dyt." in name and name.endswith("score.bias"):
            param.data.fill_(-1e4)
    dense = tokens(model, images).detach()
    state = get_adaptation(model).host.flow.state["dyt"]
    prefix = get_adaptation(model).host.flow.prefix
    assert all(not (mask[:, prefix:] > 0.5).any() for mask in state.values())
    with torch.no_grad():
        torch.testing.assert_close(tokens(model, images), dense, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("host", sorted(HOSTS.module_dict))
def test_skipped_tokens_are_not_computed(host, images):
    """The MLP's linears see as many rows as the masks let through, and the result is the dense one."""
    model, x = adapted(host), images
    dense = tokens(model, x).detach()  # with a graph, everything is computed and masked
    blocks = get_adaptation(model).host.blocks
    state = get_adaptation(model).host.flow.state["dyt"]
    passed = sum(int((state[b.index] > 0.5).sum()) for b in blocks)
    every = sum(state[b.index].numel() for b in blocks)
    rows = []
    for block in blocks:
        fc1 = block.sites["fc1"].module
        first = getattr(fc1, "linears", [fc1])[0]  # a linear, or a convolution of 1x1
        first.register_forward_hook(lambda m, a, out: rows.append(out.numel() // len(m.weight)))
    with torch.no_grad():
        sparse = tokens(model, x)
    assert sum(rows) == passed
    assert 0 < passed < every
    torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-10)


def test_the_noise_is_logistic_and_in_training_only():
    model = adapted("mmpretrain.VisionTransformer")
    dispatcher = get_adaptation(model).host.blocks[0].placed("dyt")["dispatcher"]
    with torch.no_grad():
        dispatcher.score.weight.zero_()
        dispatcher.score.bias.fill_(1.0)
    flow = get_adaptation(model).host.flow
    flow.begin(1)
    flow.enter(0)
    x = torch.zeros(64, 101, 64, dtype=torch.float64)
    dispatcher(x, flow)
    assert flow.state["dyt"][0].min() == 1.0
    dispatcher.train()(x, flow)
    share = float(flow.state["dyt"][0][:, 1:].detach().mean())
    # P(1 + G1 - G2 > 0) with a logistic difference.
    assert abs(share - 1 / (1 + torch.exp(torch.tensor(-1.0)))) < 0.02
    assert flow.state["dyt"][0][:, 0].min() == 1.0


def test_loss_equals_its_formula():
    masks = [torch.tensor([[1.0, 0.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.0, 1.0]])]
    dynamic, complete = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    losses = DyTLoss(target=0.6)(masks, dynamic, complete)
    assert float(losses["loss_rate"]) == pytest.approx(2 * (0.5 - 0.6) ** 2)
    p, q = dynamic.softmax(1), complete.softmax(1)
    expected = (q * (q / p).log()).sum(1).mean().detach()
    torch.testing.assert_close(losses["loss_divergence"], expected)
    losses["loss_divergence"].backward()
    assert complete.grad is None


def classifier():
    backbone = {"type": "VisionTransformer", "arch": ARCH, "img_size": 32, "patch_size": 8}
    head = {"type": "LinearClsHead", "num_classes": 5, "in_channels": 64}
    torch.manual_seed(0)
    model = ImageClassifier(backbone=backbone, head=head).double()
    return perturb(vpeft.attach(model, {"type": "DyT", "bottleneck": 4})).train()


def test_losses_reach_the_model_through_the_algorithm():
    model = classifier()
    add_losses(model)
    add_losses(model)
    assert isinstance(model.loss, MethodLosses)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    samples = [DataSample().set_gt_label(i) for i in (1, 3)]
    losses = model(x, samples, mode="loss")
    assert losses.keys() == {"loss", "loss_complete", "loss_rate", "loss_divergence"}
    adaptation = get_adaptation(model)
    assert all(adaptation.host.flow.state["dyt"][b.index] is None for b in adaptation.host.blocks)  # the second pass
    torch.manual_seed(4)
    losses = model(x, samples, mode="loss")
    torch.manual_seed(4)
    plain = type(model).loss(model, x, samples)["loss"]
    torch.testing.assert_close(losses["loss"], plain)
    for block in adaptation.host.blocks:
        block.placed("dyt")["dispatcher"].complete = True
    torch.testing.assert_close(losses["loss_complete"], type(model).loss(model, x, samples)["loss"])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_other_methods_leave_the_loss_alone():
    model = ImageClassifier(
        backbone={"type": "VisionTransformer", "arch": ARCH, "img_size": 32, "patch_size": 8},
        head={"type": "LinearClsHead", "num_classes": 5, "in_channels": 64},
    )
    vpeft.attach(model, "LoRA")
    add_losses(model)
    assert "loss" not in vars(model)
