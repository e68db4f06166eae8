"""Networks that use their weights in unusual ways: each is right on the generic host, or says what is left out."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import vpeft
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.backbones.generic import read_generic


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.first(x)))

    def first(self, x: Tensor) -> Tensor:
        return self.a(x)


class Functional(Net):
    def first(self, x):
        return F.linear(x, self.a.weight, self.a.bias)


class FunctionalInTraining(Net):
    def first(self, x):
        return F.linear(x, self.a.weight, self.a.bias) if self.training else self.a(x)


class FunctionalToo(Net):
    def first(self, x):
        return self.a(x) + F.linear(x, self.a.weight)


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.b.weight = self.a.weight


class OneMemory(Net):
    def __init__(self):
        super().__init__()
        self.b.weight = nn.Parameter(self.a.weight.data)


class Buffer(Net):
    """A buffer lies in a weight's memory."""

    def __init__(self):
        super().__init__()
        self.register_buffer("view", self.a.weight.data[4:])

    def first(self, x):
        return self.a(x) + F.pad(F.linear(x, self.view), (0, 4))


class OwnBuffer(Net):
    """A buffer was computed of a weight: it stays as it is, whatever is merged."""

    def __init__(self):
        super().__init__()
        self.register_buffer("sum", self.a.weight.detach().sum(0))

    def first(self, x):
        return self.a(x) + self.sum


class OneModule(Net):
    def __init__(self):
        super().__init__()
        self.again = self.a

    def first(self, x):
        return self.again(self.a(x))


class TrainingAlone(Net):
    def __init__(self):
        super().__init__()
        self.extra = nn.Linear(16, 16)

    def first(self, x):
        return self.a(x) + self.extra(x) if self.training else self.a(x)


class EvalAlone(TrainingAlone):
    def first(self, x):
        return self.a(x) if self.training else self.a(x) + self.extra(x)


class WithoutGradient(Net):
    """Frozen by the network itself in train mode."""

    def first(self, x):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.training):
            return self.a(x)


class NormRead(Net):
    def forward(self, x):
        return self.b(self.norm(self.a(x)) * self.norm.weight)


class Attention(Net):
    def __init__(self):
        super().__init__()
        self.mha = nn.MultiheadAttention(16, 2)

    def first(self, x):
        y = self.a(x)
        return self.mha(y, y, y)[0]


class Checkpointed(Net):
    """Re-entrantly, which computes no gradient behind what asks for none."""

    def first(self, x):
        return checkpoint(self.a, x, use_reentrant=True) if self.training else self.a(x)


class Dropped(Net):
    """A layer that is dropped whole, by chance."""

    def first(self, x):
        return x if self.training and torch.rand(()) < 0.5 else self.a(x)


class Standardised(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Scaled(Net):
    def __init__(self):
        super().__init__()
        self.a = Standardised(16, 16)


class Compiled(Net):
    def __init__(self):
        super().__init__()
        self.a = torch.compile(self.a, backend="eager")


LEFT_OUT = {
    Functional: {"a": "its weight is used by linear in the network"},
    FunctionalInTraining: {"a": "in train mode, its weight is used by linear in the network"},
    FunctionalToo: {"a": "its weight is used by linear in the network"},
    Tied: {"a": "it shares a parameter with another module", "b": "it shares a parameter with another module"},
    OneMemory: dict.fromkeys("ab", "it shares the memory of a parameter with another one"),
    Buffer: {"a": "the memory of its weight is used by linear in the network"},
    OwnBuffer: {},
    OneModule: {},
    TrainingAlone: {"extra": "it is never called"},
    EvalAlone: {"extra": "in train mode, it is never called"},
    WithoutGradient: {"a": "in train mode, nothing that comes out depends on it"},
    NormRead: {"norm": "its weight is used by mul in the network"},
    Attention: {"mha.out_proj": "its weight is used by multi_head_attention_forward in mha"},
    Checkpointed: {},
    Dropped: {},
    Scaled: {"a": "its weight is used by mean in a"},
    Compiled: {},
}


def attached(network: type[Net], method: str) -> nn.Module:
    torch.manual_seed(0)
    model = network().eval()
    return vpeft.attach(model, method, sample=torch.randn(4, 16))


def trained(model: nn.Module) -> list[nn.Parameter]:
    return [param for param in model.parameters() if param.requires_grad]


@pytest.mark.parametrize("network", LEFT_OUT)
def test_what_is_bypassed_is_named(network):
    assert parameter_report(attached(network, "SSF")).left_out == LEFT_OUT[network]


@pytest.mark.parametrize("method", ["LoRA", "SSF", "BitFit"])
@pytest.mark.parametrize("network", LEFT_OUT)
def test_what_is_placed_acts_in_training_and_merges(network, method):
    if (network, method) in {(Tied, "LoRA"), (OneMemory, "LoRA")}:
        with pytest.raises(
            vpeft.UserError, match=r"no linear and no convolution of this network can be adapted\. Left out: a"
        ):
            attached(network, method)
        return
    model = attached(network, method)
    x, params = torch.randn(4, 16), trained(model)
    torch.manual_seed(1)
    for param in params:
        nn.init.normal_(param, std=0.3)
    if network is not Dropped:
        model.train()
        model(x).square().sum().backward()
        assert all(param.grad is not None and param.grad.any() for param in params)
        model.eval()
    with torch.no_grad():
        before = model(x)
        for param in params:
            kept = param.clone()
            param.add_(torch.randn_like(param))
            assert not torch.equal(model(x), before)
            param.copy_(kept)
        vpeft.merge(model)
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)


def test_a_pass_in_train_mode_leaves_nothing_behind():
    """Statistics, chance and modes are as before, also where values are computed."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Linear(16, 16), nn.BatchNorm1d(16), nn.Linear(16, 16)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            self.last = x if self.training else None
            return self.b(F.dropout(self.norm(self.a(x)) if x.sum() > -1e9 else x, training=self.training))

    model = Counts()
    model.norm.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    chance = torch.get_rng_state()
    read_generic(model, sample=torch.randn(4, 16, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), chance)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert "last" not in vars(model)
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_a_torchscript_part_is_named():
    model = nn.Sequential(nn.Linear(16, 16), torch.jit.script(nn.Linear(16, 16)))
    with pytest.raises(vpeft.UserError, match="1 is a TorchScript module, into which nothing can be placed"):
        vpeft.attach(model, "LoRA", sample=torch.randn(2, 16))


@pytest.mark.parametrize("mode", [True, False])
def test_what_is_cached_for_a_mode_is_there_in_it(mode):
    """A module that makes something as it enters eval mode, and drops it in train mode, as LeViT's attention does."""

    class Cached(Net):
        def train(self, mode=True):
            super().train(mode)
            if mode:
                vars(self).pop("cache", None)
            else:
                self.cache = torch.ones(16)
            return self

        def first(self, x):
            return self.a(x) + (torch.ones(16) if self.training else self.cache)

    model = Cached().train(mode)
    x = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    before = model(x)
    vpeft.attach(model, "LoRA", sample=x)
    assert model.training == mode
    assert hasattr(model, "cache") != mode
    torch.testing.assert_close(model(x), before)
