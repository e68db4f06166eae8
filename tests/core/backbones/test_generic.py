"""The generic host: what a probe pass sees, what is left out by name, and the contract on networks without a host."""

import copy
import functools
import pickle
import random
import threading

import pytest
import timm
import torch
import torch.nn.functional as F
import transformers
from mmengine.logging import MMLogger
from mmengine.registry import MODELS
from timm.models import _registry
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models.resnet import BasicBlock, ResNet

import vpeft
from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.backbones.generic import read_generic
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.backbones.probing.inputs import guesses
from vpeft.core.backbones.probing.watch import leaves, tensors, watch
from vpeft.core.contract.build import build_methods
from vpeft.extension.attention.record import record_attention
from vpeft.extension.changes.cka import block_outputs
from vpeft.extension.changes.selected import selections

METHODS = ["LoRA", "SSF", "BitFit", "LNTune", "DiffFit", "GPS"]


class Own(nn.Module):
    """Convolutions of every setting, norms of three kinds, an in-place ReLU behind a linear, and a head."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, padding=1, padding_mode="circular", bias=bias),
            nn.BatchNorm2d(16),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, groups=4, dilation=2, bias=bias),
            nn.GroupNorm(4, 32),
            nn.GELU(),
            nn.Conv2d(32, 32, (5, 3), groups=32, padding="same", bias=bias),
        )
        self.norm = nn.LayerNorm(32)
        self.proj = nn.Sequential(nn.Linear(32, 24), nn.ReLU(inplace=True))
        self.fc = nn.Linear(24, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.proj(self.norm(self.body(x).mean((2, 3)))))


def resnet() -> nn.Module:
    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(inplace=True), nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 9)
    )


NETWORKS = {"own": (Own, (2, 3, 32, 32)), "resnet": (resnet, (2, 3, 32, 32)), "mlp": (mlp, (3, 12))}


@pytest.fixture(params=NETWORKS)
def network(request):
    torch.manual_seed(0)
    build, shape = NETWORKS[request.param]
    model = build().eval()
    for module in model.modules():  # norms as trained ones are
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model, torch.randn(shape)


def move(model: nn.Module) -> None:
    """Give every PEFT tensor a value that it might have learned."""
    for name, param in model.named_parameters():
        if is_peft_key(name):
            param.data = torch.randn_like(param) * 0.1 + (name.endswith("gamma"))


@pytest.mark.parametrize("method", METHODS)
def test_the_contract_holds_on_networks_without_a_host(network, method):
    model, x = network
    plain, before = model(x), copy.deepcopy(model.state_dict())
    vpeft.attach(model, {"type": method, "init": "identity"} if method == "SSF" else method)
    assert model.peft_adaptation.host.registered_name() == "generic"
    assert torch.equal(model(x), plain)
    move(model)
    adapted = model(x)
    (adapted * torch.randn_like(adapted)).sum().backward()
    trained = {name: param.grad for name, param in model.named_parameters() if param.requires_grad}
    assert [name for name, grad in trained.items() if grad is None or not grad.any()] == []
    own = sum(grad.numel() for name, grad in trained.items() if not name.startswith("fc."))
    assert own == parameter_report(model).trainable_without_head > 0
    with vpeft.disabled(model):
        assert torch.equal(model(x), plain)
    vpeft.detach(model)
    assert torch.equal(model(x), plain)
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(hasattr(module, "peft") or module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("method", ["LoRA", "SSF", "GPS"])
def test_merging_is_exact(network, method):
    model, x = network
    vpeft.attach(model, method)
    move(model)
    model.double()
    adapted = model(x.double())
    if method == "SSF" and isinstance(model, ResNet):
        with pytest.raises(vpeft.UserError, match="'conv1', whose module has no bias to merge the shift into"):
            vpeft.merge(model)
        return
    assert vpeft.merge(model) == []
    merged = model(x.double())
    assert (merged - adapted).abs().max() <= 1e-10 * adapted.abs().max()
    with vpeft.disabled(model):
        assert (model(x.double()) - adapted).abs().max() > 1e-3
    vpeft.unmerge(model)
    assert torch.equal(model(x.double()), adapted)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(8, 12, 3, stride=2, padding=2),
        nn.Conv2d(8, 12, (3, 2), stride=(1, 2), dilation=(2, 1), groups=4, padding=(1, 0), padding_mode="reflect"),
        nn.Conv3d(8, 8, 3, groups=8, padding="same", bias=False),
        nn.Conv2d(8, 12, 1, bias=False),
    ],
    ids=["1d", "grouped", "3d-depthwise", "pointwise"],
)
def test_the_update_of_a_convolution_is_that_of_its_weight(module):
    torch.manual_seed(0)
    model = nn.Sequential(module, nn.Flatten())
    x = torch.randn(2, 8, *[7] * (module.weight.dim() - 2))
    vpeft.attach(model, {"type": "LoRA", "rank": 3, "alpha": 6}, sample=x)
    move(model)
    update, adapted = module.peft["lora"]["parallel"], model(x)
    weight = module.weight + 2 * (update.up @ update.down.flatten(1)).view_as(module.weight)
    vpeft.detach(model)
    module.weight.data = weight.detach()
    assert torch.allclose(adapted, model(x), atol=1e-5)


class Bypassed(nn.Module):
    """Every way in which a linear or convolution is not one plain operation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Linear(16, 16)
        self.functional = nn.Linear(16, 16)
        self.twice = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.same = nn.Linear(16, 16)
        self.same.weight = self.tied.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.never = nn.Linear(16, 16)
        self.for_nothing = nn.Linear(16, 16)
        self.cut = nn.Linear(16, 16)
        self.scaled = Scaled(16, 16)
        self.activated = Activated(16)
        self.padded = Padded(1, 1, 3)
        self.transposed = nn.ConvTranspose1d(1, 1, 1)
        self.out = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(x)
        x = F.linear(x, self.functional.weight, self.functional.bias)
        x = self.twice(x) @ self.twice.weight.t()
        x = self.same(self.tied(x))
        x = self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]
        self.for_nothing(x)
        x = x + self.cut(x).detach()
        x = self.activated(self.scaled(x))
        x = self.transposed(self.padded(x[:, None]))[:, 0]
        return self.out(x)


class Scaled(nn.Linear):
    """A linear with a weight that it computes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * 2, self.bias)


class Activated(nn.LayerNorm):
    """A norm with an activation inside, in place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).relu_()


class Padded(nn.Conv1d):
    """A convolution that pads its input itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, (1, 1)))


LEFT_OUT = {
    "functional": "its weight is used by linear in the network",
    "twice": "its weight is used by t in the network",
    "tied": "it shares a parameter with another module",
    "same": "it shares a parameter with another module",
    "attention.out_proj": "its weight is used by multi_head_attention_forward in attention",
    "never": "it is never called",
    "for_nothing": "nothing that comes out depends on it",
    "cut": "nothing that comes out depends on it",
    "scaled": "its weight is used by mul in scaled",
    "activated": "its call changes its output",
    "padded": "its call changes its input",
    "transposed": "its weight is used by conv_transpose1d in transposed",
}


def test_what_is_bypassed_is_left_out_by_name():
    torch.manual_seed(0)
    model, x = Bypassed(), torch.randn(2, 16)
    host = read_generic(model, sample=x)
    assert host.kinds == {"plain": "linear", "out": "linear"}
    assert host.left_out == LEFT_OUT
    roles = {p.name: p.role for p in host.parameters()}
    assert roles["never.bias"] == roles["cut.weight"] == "unused"
    assert roles["tied.weight"] == "shared"
    assert "same.weight" not in roles
    assert roles["attention.in_proj_bias"] == roles["attention.out_proj.bias"] == "bias"
    vpeft.attach(model, "BitFit", sample=x)
    model(x).square().sum().backward()
    trained = {name for name, param in model.named_parameters() if param.requires_grad}
    assert {"plain.bias", "functional.bias", "attention.in_proj_bias", "transposed.bias"} <= trained
    assert not trained & {"never.bias", "for_nothing.bias", "cut.bias", "plain.weight"}
    assert all(model.get_parameter(name).grad is not None for name in trained)


def test_the_report_and_one_log_line_name_what_is_left_out(caplog):
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        model = vpeft.attach(Bypassed(), "LoRA", sample=torch.randn(2, 16))
    finally:
        logger.removeHandler(caplog.handler)
    report = parameter_report(model)
    assert report.left_out == LEFT_OUT
    assert "left out: tied (it shares a parameter with another module)" in render(report)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().endswith(
        "has no host of its own and is read by what a pass with the sample calls: 2 linears; it holds no head; left "
        "out: functional (its weight is used by linear in the network); twice (its weight is used by t in the "
        "network); tied (it shares a parameter with another module) and 9 more."
    )


def test_an_encoder_that_torch_runs_as_one_kernel_is_left_alone():
    layer = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
    model, x = nn.Sequential(nn.Linear(16, 16), layer).eval(), torch.randn(2, 3, 16)
    with torch.no_grad():
        plain = model(x)
    vpeft.attach(model, "LoRA", sample=x)
    host = model.peft_adaptation.host
    assert list(host.kinds) == ["0"]
    assert host.left_out["1.linear1"].endswith("unless torch.backends.mha.set_fastpath_enabled(False)")
    with torch.no_grad():
        assert torch.equal(model(x), plain)
    vpeft.detach(model)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        assert list(read_generic(model, sample=x).kinds) == ["0", "1.norm1", "1.linear1", "1.linear2", "1.norm2"]
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_a_probe_changes_nothing():
    model, x = Own().train(), torch.randn(2, 3, 32, 32)
    model.body[0].weight.requires_grad_(False)
    model.norm.eval()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modes = [module.training for module in model.modules()]
    seen = watch(model, model, lambda: model(x))
    assert list(seen.kinds.values()) == ["conv", "norm", "conv", "norm", "conv", "norm", "linear", "linear"]
    assert seen.unused == set()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [name for name, param in model.named_parameters() if not param.requires_grad] == ["body.0.weight"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Twofold(nn.Module):
    """Takes what cannot be guessed."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, left: torch.Tensor, right: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.left(left) + self.right(right)}

    def encode(self, left: torch.Tensor) -> torch.Tensor:
        return self.left(left)


X = torch.ones(2, 8)
X_OWN = torch.ones(2, 3, 32, 32)


@pytest.mark.parametrize(
    ("sample", "found"),
    [
        ((X, X), ["left", "right"]),
        ({"left": X, "right": X}, ["left", "right"]),
        (lambda model: model.encode(X), ["left"]),
    ],
    ids=["tuple", "dict", "function"],
)
def test_samples(sample, found):
    assert list(read_generic(Twofold(), sample=sample).kinds) == found


@pytest.mark.parametrize(
    ("model", "method", "sample", "message"),
    [
        (Twofold, "LoRA", None, r"could not be watched: tried inputs \(1, 8\): TypeError: .*Give sample="),
        (Twofold, "LoRA", X, "Twofold does not run with the sample: TypeError"),
        (Twofold, "LoRA", 3, "sample=int: give a tensor, a tuple"),
        (
            Own,
            "AdaptFormer",
            None,
            "no host found in Own.* AdaptFormer needs blocks. Methods that attach to any other .* LoRA",
        ),
        (Own, ["LoRA", "Mona"], None, "Mona needs blocks"),
        (lambda: nn.Linear(4, 4), "LoRA", None, "no host found in Linear"),
        (lambda: nn.Sequential(nn.LazyLinear(4)), "LoRA", X, "lazy layers without sizes: run it once"),
        (Own, {"type": "LoRA", "rank": 40}, None, "rank=40 is above the widths of all"),
        (
            Own,
            {"type": "LoRA", "targets": ["q"]},
            None,
            r"has no linear or convolution 'q' .* it has 4, such as body\.0",
        ),
        (Own, {"type": "LoRA", "targets": ["fc"]}, None, "has no linear or convolution 'fc'"),
        (Own, {"type": "LoRA", "targets": []}, None, "must name at least one"),
        (Own, {"type": "LoRA", "rank": 28, "targets": ["proj.0"]}, None, "rank=28 must be a whole number from 1 to 24"),
    ],
)
def test_refusals(model, method, sample, message):
    model = model()
    keys, kind = list(model.state_dict()), type(model)
    with pytest.raises(vpeft.UserError, match=message) as error:
        vpeft.attach(model, method, sample=sample)
    assert "\n" not in str(error.value)
    assert list(model.state_dict()) == keys
    assert type(model) is kind


def test_targets_are_names_or_their_ends():
    model = vpeft.attach(resnet(), {"type": "LoRA", "rank": 2, "targets": ["conv2", "layer4.0.conv1"]})
    names = {name.split(".peft")[0] for name in model.state_dict() if is_peft_key(name)}
    assert names == {"layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2", "layer4.0.conv1"}
    config = model.peft_adaptation.methods["lora"].config()
    assert config["targets"] == ["conv2", "layer4.0.conv1"]
    assert vpeft.attach(resnet(), "LoRA").peft_adaptation.methods["lora"].config()["targets"] is None


def test_a_part_is_adapted_and_the_rest_stays_as_it_was(caplog):
    model = nn.ModuleDict({"features": Own(), "task": nn.Linear(4, 2)})
    vpeft.attach(model, "LoRA", backbone="features")
    free = {
        name.split(".")[0] for name, param in model.named_parameters() if param.requires_grad and not is_peft_key(name)
    }
    assert free == {"features", "task"}
    assert not model["features"].body[0].weight.requires_grad
    with pytest.raises(vpeft.UserError, match="attached to features already"):
        vpeft.attach(model, "LoRA", backbone="features.body")
    with pytest.raises(vpeft.UserError, match="attached to this model already"):
        vpeft.attach(model, "LoRA")
    with pytest.raises(vpeft.UserError, match="'featurez' is no backbone that can be adapted"):
        vpeft.attach(model, "LoRA", backbone="featurez")


def test_files(network, tmp_path):
    model, x = network
    fresh = copy.deepcopy(model)
    vpeft.attach(model, "LoRA")
    move(model)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    vpeft.load_adapter(fresh, tmp_path / "a.safetensors")
    assert torch.equal(fresh(x), model(x))
    vpeft.detach(fresh)
    other = mlp() if isinstance(model, Own) else Own()
    with pytest.raises(vpeft.UserError, match="belongs to another host: its network is"):
        vpeft.load_adapter(other, tmp_path / "a.safetensors")
    assert not any(is_peft_key(name) for name in other.state_dict())


def test_a_file_of_other_sites_is_refused(tmp_path):
    model = vpeft.attach(Own(), "LoRA")
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    with pytest.raises(vpeft.UserError, match="belongs to another host: its sites is"):
        vpeft.load_adapter(
            Own(), tmp_path / "a.safetensors", sample=lambda own: own.fc(own.body(X_OWN).mean((2, 3))[:, :24])
        )


def test_an_adapter_of_a_part_is_loaded_into_that_part(tmp_path):
    build = lambda: nn.Sequential(nn.Sequential(Own(), nn.ReLU()), nn.Linear(4, 2))  # noqa: E731
    model = build().eval()
    other, x = copy.deepcopy(model), torch.randn(2, 3, 32, 32)
    vpeft.attach(model, "LoRA", backbone="0.0")
    move(model)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    vpeft.load_adapter(other, tmp_path / "a.safetensors")
    assert torch.equal(other(x), model(x))


def test_running_statistics_stay_those_of_the_base(tmp_path):
    torch.manual_seed(0)
    model, x = resnet(), torch.randn(4, 3, 32, 32)
    fresh, before = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    vpeft.attach(model, "LoRA").train()
    assert not model.bn1.training
    assert model.layer1.training
    optimizer = torch.optim.SGD([param for param in model.parameters() if param.requires_grad], 0.1)
    model(x).square().sum().backward()
    optimizer.step()
    model.eval()
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    assert torch.equal(vpeft.load_adapter(fresh.eval(), tmp_path / "a.safetensors")(x), model(x))
    vpeft.detach(model)
    assert all(
        torch.equal(value, before[name]) for name, value in model.state_dict().items() if not name.startswith("fc.")
    )
    model.train()
    assert model.bn1.training


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant):
    torch.manual_seed(0)
    model, x = Own().eval(), torch.randn(2, 3, 32, 32, requires_grad=True)
    vpeft.attach(model, "LoRA")
    move(model)
    model(x).square().sum().backward()
    grads = {name: param.grad.clone() for name, param in model.named_parameters() if param.grad is not None}
    model.zero_grad()
    body = model.body
    forward = type(body).forward
    body.forward = lambda y: checkpoint(lambda z: forward(body, z), y, use_reentrant=reentrant)
    model(x).square().sum().backward()
    again = {name: param.grad for name, param in model.named_parameters() if param.grad is not None}
    assert again.keys() == grads.keys()
    assert all(torch.allclose(again[name], grad) for name, grad in grads.items())


class Checkpointed(Own):
    """Checkpoints itself, re-entrantly, as older models do."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = checkpoint(self.body, x, use_reentrant=True) if x.requires_grad else self.body(x)
        return self.fc(self.proj(self.norm(y.mean((2, 3)))))


def test_what_is_checkpointed_is_seen():
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    assert read_generic(Checkpointed(), sample=x).kinds == read_generic(Own(), sample=x).kinds


def test_half_precision_and_autocast():
    torch.manual_seed(0)
    model, x = Own().eval(), torch.randn(2, 3, 32, 32)
    vpeft.attach(model, ["LoRA", "SSF"])
    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
    half = vpeft.attach(Own().eval().to(torch.bfloat16), "LoRA")
    assert next(half.peft_adaptation.peft_modules()).down.dtype == torch.float32
    half(x.bfloat16()).float().square().sum().backward()
    assert half.body[0].peft["lora"]["parallel"].up.grad.any()


def test_copies_pickles_and_threads():
    torch.manual_seed(0)
    model, x = vpeft.attach(resnet().eval(), "LoRA"), torch.randn(2, 3, 32, 32)
    move(model)
    expected = model(x)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(x), expected)
    results = {}

    def run(number: int) -> None:
        results[number] = model(x)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(results[number], expected) for number in range(4))


@functools.lru_cache
def positions(length: int) -> torch.Tensor:
    return torch.arange(length).float()


class Remembers(nn.Module):
    """Keeps what it computes: in the cache of a function, of a method behind a decorator, as attribute and buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        self.kept = None
        self.register_buffer("seen", torch.zeros(8), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        if self.kept is None:
            self.kept, self.seen = torch.ones(8), x.detach().mean(0)
        return self.last(x + positions(8) + self.kept + self.seen)


def test_a_pass_without_memory_leaves_nothing_behind():
    model, x = Remembers(), torch.randn(2, 8)
    before = copy.deepcopy(model)(x)
    positions(3)
    assert torch.equal(vpeft.attach(model, "LoRA", sample=x)(x), before)
    assert type(model.seen) is type(positions(8)) is torch.Tensor
    config = transformers.Data2VecVisionConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        use_relative_position_bias=True,
    )  # fmt: skip
    network, image = transformers.Data2VecVisionModel(config).eval(), torch.randn(1, 3, 16, 16)
    watch(network, network, lambda: network(image))
    assert type(network(image)[0]) is torch.Tensor


def test_a_merged_network_is_not_trained():
    model, x = vpeft.attach(Own(), "LoRA"), torch.randn(2, 3, 32, 32)
    vpeft.merge(model)
    with pytest.raises(vpeft.UserError, match="merged into the weights"):
        model.train()(x)


def families() -> list[str]:
    """The first name of each of 20 of timm's model families, by a seed."""
    first = {_registry._model_to_module[name]: name for name in reversed(timm.list_models())}
    del first["sequencer"]  # an LSTM, written out step by step on the meta device
    return [first[family] for family in random.Random(0).sample(sorted(first), 20)]


@pytest.mark.parametrize("name", families())
def test_every_tensor_acts_in_families_of_timm(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    Adaptation(read_generic(model), build_methods("LoRA")).place()
    (_, call), *_ = guesses(model)
    reached = {id(leaf) for leaf in leaves(tensors(call(model.eval())))}
    placed = {key: param for key, param in model.named_parameters() if is_peft_key(key)}
    assert len(placed) > 20
    assert [key for key, param in placed.items() if id(param) not in reached] == []


def test_what_looks_into_blocks_says_that_there_are_none():
    model, x = vpeft.attach(resnet().eval(), "GPS"), torch.randn(2, 3, 32, 32)
    for look in (lambda: record_attention(model), lambda: block_outputs(model)):
        with pytest.raises(vpeft.UserError, match="generic host of ResNet has no blocks to look into"), look():
            model(x)
    with pytest.raises(vpeft.UserError, match="no host found in ResNet"), record_attention(resnet()):
        pass
    names = [one.name for one in selections(model)]
    assert names[:3] == ["conv1", "layer1.0.conv1", "layer1.0.conv2"]


def test_methods_select_from_training_data():
    torch.manual_seed(0)
    model = vpeft.attach(resnet(), "GPS")
    before = model.conv1.peft["gps"]["parallel"].index.clone()
    vpeft.learn(model, [(torch.randn(4, 3, 32, 32), torch.tensor([0, 0, 1, 1]))])
    assert model.conv1.peft["gps"]["parallel"].learned
    assert not torch.equal(model.conv1.peft["gps"]["parallel"].index, before)


def test_a_backbone_of_a_config():
    import mmpretrain.models  # noqa: F401

    backbone = {"type": "vpeft.PEFT", "of": "mmpretrain.ResNet", "depth": 18, "method": "LoRA", "base": "random"}
    model = MODELS.build(backbone)
    model.init_weights()
    assert model.train().bn1.training is False
    assert isinstance(model(torch.randn(1, 3, 32, 32)), tuple)


@pytest.mark.slow
def test_programs():
    model, x = vpeft.attach(resnet().eval(), "LoRA"), torch.randn(2, 3, 32, 32)
    move(model)
    assert torch.allclose(torch.export.export(model, (x,)).module()(x), model(x), atol=1e-4)
    assert torch.allclose(torch.jit.trace(model, (x,))(x), model(x), atol=1e-4)
    assert torch.allclose(torch.compile(model, backend="eager")(x), model(x), atol=1e-4)


def test_sizes_are_looked_for_in_the_parts_of_a_config():
    from types import SimpleNamespace as Config

    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    model.config = Config(vision_config=Config(num_channels=1, backbone_config=Config(image_size=[48, 40])))
    assert next(shape for shape, _ in guesses(model)) == "(1, 3, 48, 40)"
    model.config.vision_config.image_size = 56
    assert [shape for shape, _ in guesses(model)][:2] == ["(1, 1, 56, 56)", "(1, 3, 48, 40)"]
