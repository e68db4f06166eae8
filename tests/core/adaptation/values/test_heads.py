"""The base's own head comes back, wherever it is."""

import copy
import pickle

import pytest
import torch
from support.hosts import build, perturb
from torch import nn

import vpeft


class Outside(nn.Module):
    """A model whose head is outside its backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = build("mmpretrain.VisionTransformer")
        self.head = nn.Linear(self.backbone.embed_dims, 3).double()

    def forward(self, x):
        return self.head(self.backbone(x)[-1])


@pytest.fixture(params=["inside", "outside"])
def make(request):
    def one():
        torch.manual_seed(0)
        return (build("timm.VisionTransformer") if request.param == "inside" else Outside()).eval()

    return one


@pytest.fixture
def images(make):
    size = 32
    return torch.randn(2, 3, size, size, dtype=torch.float64)


@pytest.mark.parametrize("method", ["LoRA", "VPTDeep"])
@pytest.mark.parametrize("through", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_loaded_head_goes_with_its_adapter(make, images, tmp_path, method, through):
    trained = vpeft.attach(make(), {"type": method})
    perturb(trained)
    with torch.no_grad():
        for p in trained.head.parameters():
            p.add_(1)
    vpeft.save_adapter(trained, tmp_path / "adapter.safetensors")

    model = make()
    before = model(images)
    vpeft.load_adapter(model, tmp_path / "adapter.safetensors")
    model = through(model)
    after = trained.eval()(images)
    torch.testing.assert_close(model.eval()(images), after, rtol=1e-12, atol=1e-12)
    assert not torch.equal(before, after)
    with vpeft.disabled(model):
        assert torch.equal(model(images), before)
    torch.testing.assert_close(model(images), after, rtol=1e-12, atol=1e-12)
    vpeft.detach(model)
    assert torch.equal(model(images), before)


def test_a_file_without_a_head_leaves_the_head_alone(images, tmp_path):
    trained = perturb(vpeft.attach(Outside().eval(), "LoRA"))
    vpeft.save_adapter(trained, tmp_path / "adapter.safetensors", head=False)
    model = copy.deepcopy(trained)
    vpeft.load_adapter(model, tmp_path / "adapter.safetensors")
    assert not next(iter(model.backbone.peft_adaptation.heads.outside), None)
