"""What a block keeps anyway is not kept again: gradients are those of the plain dense form, however a pass is run."""

import pytest
import timm
import torch
import torch.nn.functional as F

import vpeft
from vpeft.algorithms.modules.kept import scale
from vpeft.core.adaptation.find import get_adaptation

VIT = {"model_name": "vit_tiny_patch16_224", "img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}
SWIN = {"model_name": "swin_tiny_patch4_window7_224", "img_size": 32, "window_size": 4, "depths": (1, 2)}
SWIN |= {"embed_dim": 24, "num_heads": (2, 4), "drop_path_rate": 0.0}
CONFIGS = {
    "SSF": {"type": "SSF"},
    "Hydra": {"type": "Hydra", "drop": 0.0},
    "GPS": {"type": "GPS", "entries": 2},
    "FacT-TT": {"type": "FacT-TT", "rank": 4, "drop": 0.0},
    "FacT-TK": {"type": "FacT-TK", "rank": 4, "drop": 0.0},
    "KAdaptation": {"type": "KAdaptation", "terms": 4, "drop": 0.0},
    "LoRA": {"type": "LoRA", "rank": 4, "targets": ("qkv", "proj", "fc1", "fc2")},
    "IA3": {"type": "IA3"},
    "DoRA": {"type": "DoRA", "rank": 4, "targets": ("qkv", "proj", "fc1", "fc2")},
    "SSF then LoRA": [{"type": "SSF"}, {"type": "LoRA", "rank": 4, "targets": ("qkv", "fc1", "fc2")}],
    "LoRA then SSF": [{"type": "LoRA", "rank": 4, "targets": ("qkv", "fc1", "fc2")}, {"type": "SSF"}],
    "LoRA then Hydra": [{"type": "LoRA", "rank": 4, "targets": ("proj", "fc2")}, {"type": "Hydra", "drop": 0.0}],
    "LNTune then SSF": [{"type": "LNTune"}, {"type": "SSF"}],
}


class Dense:
    """A placed module as the dense map that it says it is."""

    training = False

    def __init__(self, entry):
        self.module = entry.module
        if entry.placement == "parallel":
            self.add_to = lambda y, x, flow: y + self(x, flow)

    def __call__(self, x, flow):
        matrix, shift = self.module.affine()
        if getattr(self.module, "convolution", None) is not None:  # the patch embedding's
            return self.module.convolution(x, matrix.view(self.module.shape)).permute(0, 2, 3, 1)
        y = x * matrix if matrix.dim() == 1 else F.linear(x, matrix)
        return y if shift is None else y + shift


def adapted(config, host):
    torch.manual_seed(0)
    model = timm.create_model(num_classes=5, **host).double()
    vpeft.attach(model, config)
    generator = torch.Generator().manual_seed(1)
    for param in model.parameters():
        if param.requires_grad:
            param.data += 0.1 * torch.randn(param.shape, generator=generator, dtype=param.dtype)
    return model.train()


def entries(model):
    return [entry for site in get_adaptation(model).host.every_site() for entry in site.entries]


def gradients(model, run=None):
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model.zero_grad()
    loss = (run or model)(images).square().sum()
    loss.backward()
    return {name: param.grad.clone() for name, param in model.named_parameters() if param.requires_grad}


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert grad.any(), name
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-10 * float(grad.abs().max()), msg=name)


@pytest.mark.parametrize("host", [VIT, SWIN], ids=["vit", "swin"])
@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_dense_form(name, host):
    model = adapted(CONFIGS[name], host)
    found = gradients(model)
    for entry in entries(model):
        entry.module = Dense(entry)
    assert_equal(found, gradients(model))


def dense_lorand(module):
    """``x + W_up GELU(W_dn x + b) + b'`` with both matrices formed."""

    def run(x, flow=None):
        kernel, (down, up) = module.down.kernel, (module.down, module.up)
        first, second = (torch.einsum("aik,akl,alo->oi", m.left, kernel, m.right) for m in (down, up))
        return x + F.linear(F.gelu(F.linear(x, first, down.bias)), second, up.bias)

    run.training = False
    return run


def test_the_hidden_layer_of_lorand_is_made_again():
    model = adapted({"type": "LoRand", "beta": 2}, VIT)
    found = gradients(model)
    for entry in entries(model):
        entry.module = dense_lorand(entry.module)
    assert_equal(found, gradients(model))


def test_dropout_on_the_dense_matrix_is_the_same_in_backward():
    model = adapted({"type": "KAdaptation", "terms": 4, "drop": 0.5}, VIT)
    torch.manual_seed(3)
    found = gradients(model)
    for entry in entries(model):

        def products(x, module=entry.module):
            dense, _ = torch.native_dropout(module.dense(x.dtype), 0.5, True)
            return x @ dense[0], x @ dense[1]

        entry.module.products = products
    torch.manual_seed(3)
    wanted = gradients(model)
    assert_equal(found, wanted)
    torch.manual_seed(4)
    other = gradients(model)
    assert any(not torch.allclose(other[name], grad) for name, grad in wanted.items())


@pytest.mark.parametrize(("gain", "shift"), [(1.0, 0.1), (1e-6, 0.1), (1.0, 1e5)])
def test_no_digits_are_lost_on_the_way_back(gain, shift):
    torch.manual_seed(0)
    y, g = torch.randn(64, 3, requires_grad=True), torch.randn(64, 3)
    gain, shift = (torch.full((3,), value, requires_grad=True) for value in (gain, shift))
    found = torch.autograd.grad(scale(y, gain, shift, output_is_kept=True), gain, g)[0]
    torch.testing.assert_close(found, (g.double() * y.double()).sum(0).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("gamma", "beta"), [(0.0, 0.1), (1e-9, 0.1)])
def test_a_scale_that_cannot_be_undone_keeps_its_input(gamma, beta):
    model = adapted({"type": "SSF"}, VIT)
    for entry in entries(model):
        if entry.module.output_is_kept:
            entry.module.gamma.data[::3], entry.module.beta.data[::3] = gamma, beta
    found = gradients(model)
    for entry in entries(model):
        entry.module = Dense(entry)
    wanted = gradients(model)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-10, atol=1e-10 * float(grad.abs().max()), msg=name)


KEPT = ("SSF", "Hydra", "GPS", "KAdaptation", "DoRA", "SSF then LoRA", "LoRand")
CONFIGS_OF_RUNS = CONFIGS | {"LoRand": {"type": "LoRand", "beta": 2}}


@pytest.mark.parametrize("name", KEPT)
def test_passes_of_other_kinds_give_the_same_gradients(name):
    model = adapted(CONFIGS_OF_RUNS[name], VIT)
    plain = gradients(model)
    twice = gradients(model, lambda images: model(images) + model(images.flip(0)).flip(0))
    assert_equal({n: grad / 4 for n, grad in twice.items()}, plain)
    model.set_grad_checkpointing(True)
    assert_equal(gradients(model), plain)
    model.set_grad_checkpointing(False)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        without = model(images)
    torch.testing.assert_close(model(images), without, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", KEPT)
def test_autocast_gives_gradients_of_half_precision(name):
    model = adapted(CONFIGS_OF_RUNS[name], VIT).float()
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))

    def step(enabled):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = model(images).float().square().sum()
        loss.backward()
        return {n: param.grad.clone() for n, param in model.named_parameters() if param.requires_grad}

    wanted, found = step(False), step(True)
    for key, grad in wanted.items():
        assert found[key].dtype is torch.float32
        assert F.cosine_similarity(found[key].flatten(), grad.flatten(), dim=0) > 0.98, key
