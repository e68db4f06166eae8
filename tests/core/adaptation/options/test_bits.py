"""``bits`` beside any method: what it computes, how it starts and learns, and what a file of it holds."""

import copy
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from support import refusals
from support.hosts import build, inputs, perturb, seeded, tokens

import vpeft
from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.options.packed import is_matrix, packed_parts, stored
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.adaptation.storing.adapter_file import read_adapter, read_metadata
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[4]
VIT = "mmpretrain.VisionTransformer"
LORA = {"type": "LoRA", "rank": 4}
ADAPTER = {"type": "AdaptFormer", "bottleneck": 4, "bias": False}


def adapted(method, base=torch.float64, **options):
    seeded(3)
    return vpeft.attach(build(VIT, base), method, **options)


def matrices(model):
    """Module, name and parameter of every matrix that is read in few bits."""
    parts = [part for module in get_adaptation(model).peft_modules() for part in packed_parts(module)]
    return [(part, name, part._parameters[name]) for part in parts for name in part.peft_packed[0]]


@pytest.mark.parametrize("name", sorted(PEFT_METHODS.module_dict))
def test_every_method_computes_with_the_quantised_matrices(name, tmp_path):
    """As the same method whose matrices themselves are the quantised ones; a file gives the same to the bit.

    What has no matrices of its own is refused.
    """
    seeded(3)
    plain = refusals.attached(VIT, build(VIT), name)  # skips what this host refuses
    trained = [p for module in get_adaptation(plain).peft_modules() for p in module.parameters()]
    if not any(is_matrix(p) for p in trained):
        with pytest.raises(UserError, match=r": bits=2 is for matrices, and it trains none of its own"):
            adapted({"type": name, "bits": 2})
        return
    model = perturb(adapted({"type": name, "bits": 2})).eval()
    assert len(matrices(model)) == sum(is_matrix(p) for p in trained)
    plain.load_state_dict(model.state_dict())
    by_key = dict(plain.named_parameters())
    keys = {id(p): key for key, p in model.named_parameters()}
    with torch.no_grad():
        for part, own, matrix in matrices(model):
            assert not torch.equal(stored(part, own), matrix)
            by_key[keys[id(matrix)]].copy_(stored(part, own))
    x = inputs(VIT, 2, torch.float64)
    expected = tokens(plain.eval(), x)
    assert torch.equal(tokens(model, x), expected)
    file, again = vpeft.save_adapter(model, tmp_path / "x.safetensors"), build(VIT)
    vpeft.load_adapter(again, file)
    assert torch.equal(tokens(again.eval(), x), expected)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_file_is_read_to_the_bit_and_written_the_same_again(dtype, tmp_path):
    model = perturb(adapted([{**LORA, "bits": 3}, {**ADAPTER, "bits": 1}], torch.float32, dtype=dtype)).eval()
    file = vpeft.save_adapter(model, tmp_path / "one.safetensors")
    other = adapted([{**LORA, "bits": 3}, {**ADAPTER, "bits": 1}], torch.float32, dtype=dtype).eval()
    vpeft.load_adapter(other, file)
    x = inputs(VIT, 2, torch.float32)
    assert torch.equal(tokens(other, x), tokens(model, x))
    twice = vpeft.save_adapter(other, tmp_path / "two.safetensors")
    assert file.read_bytes() == twice.read_bytes()
    vpeft.merge(other)
    torch.testing.assert_close(tokens(other, x), tokens(model, x), rtol=1e-3, atol=1e-3 if dtype is None else 5e-2)


def test_folded_into_a_plainer_method_the_values_are_whole(tmp_path):
    model = perturb(adapted([{"type": "VFPT", "prompt_length": 6, "bits": 2}, {**LORA, "bits": 1}])).eval()
    file = vpeft.save_adapter(model, tmp_path / "x.safetensors", folded=True)
    assert [method.get("bits") for method in read_metadata(file)["methods"]] == [None, 1]
    other, x = build(VIT), inputs(VIT, 2, torch.float64)
    vpeft.load_adapter(other, file)
    torch.testing.assert_close(tokens(other.eval(), x), tokens(model, x), rtol=0, atol=1e-10)


def test_named_adapters_of_different_bits_answer_as_alone(tmp_path):
    x, base, expected = inputs(VIT, 2, torch.float64), build(VIT), {}
    for bits in (1, 3):
        seeded(bits)
        alone = perturb(vpeft.attach(copy.deepcopy(build(VIT)), {**LORA, "bits": bits})).eval()
        expected[str(bits)] = tokens(alone, x)
        file = vpeft.save_adapter(alone, tmp_path / f"{bits}.safetensors", head=False)
        vpeft.load_adapter(base, file, name=str(bits))
    base.eval()
    for name, out in expected.items():
        vpeft.use(base, name)
        assert torch.equal(tokens(base, x), out)


def test_what_a_file_holds(tmp_path):
    model = adapted({**LORA, "bits": 1}, torch.float32)
    report = parameter_report(model)
    file = vpeft.save_adapter(model, tmp_path / "x.safetensors")
    with safe_open(file, "pt") as opened:
        sizes = {key: opened.get_tensor(key).nbytes for key in list(opened.keys())}
        said = json.loads(opened.metadata()["vpeft"])
    # Three blocks, q and v, A and B, 4 x 64: a bit each, and two floats a matrix.
    assert sizes == {"packed.codes": 12 * 4 * 64 // 8, "packed.levels": 12 * 2 * 4}
    assert sum(sizes.values()) == report.stored_bytes
    assert said["format"] == "vpeft-adapter-3"
    assert said["methods"][0]["bits"] == 1
    assert f"an adapter file holds {report.stored_bytes:,} bytes of it" in render(report)
    assert parameter_report(adapted(LORA, torch.float32)).stored_bytes == 12 * 4 * 64 * 4
    tensors, _ = read_adapter(file)
    assert tensors.keys() == {key for key, p in model.named_parameters() if p.requires_grad}
    assert all(value.unique().numel() == 2 for value in tensors.values())
    plain = vpeft.save_adapter(adapted(LORA), tmp_path / "y.safetensors")
    assert read_metadata(plain)["format"] == "vpeft-adapter-2"
    assert "packed" not in read_metadata(plain)


#: Config, options of its method, KiB in the table of the authors' README with a head of one size, and its rank 1.
SIZES = {"bi_adaptformer": 72.1875, "bi_lora": 144.375}


@pytest.mark.parametrize("name", SIZES)
def test_the_published_sizes(name):
    """README of the authors: 212.9 and 285.1 KB of rank 32 with a head; 76.6, 6.8, 148.8 and 9.2 with a head of 1 bit.

    The differences do not depend on the head: they are 72.2 between the methods, 69.8 and 139.6 to rank 1.
    """
    kib = {}
    for rank in (32, 1):
        key = "bottleneck" if name == "bi_adaptformer" else "rank"
        options = {f"model.backbone.method.{key}": rank}
        cfg = load_config(ROOT / f"configs/vtab/{name}_vit.py", options=options)
        kib[rank] = config_parameters(cfg).stored_bytes / 1024
    assert kib[32] == SIZES[name]
    assert kib[32] - kib[1] == pytest.approx({"bi_adaptformer": 69.8, "bi_lora": 139.6}[name], abs=0.11)
    assert SIZES["bi_lora"] - SIZES["bi_adaptformer"] == pytest.approx(72.2, abs=0.05)


def test_the_start_and_what_is_learned():
    """A matrix that starts at zero starts as the authors' up projections do, also behind the base's initialisation."""
    model = adapted({**LORA, "rank": 16, "bits": 1}, torch.float32)
    for _ in range(2):
        for part, name, matrix in matrices(model):
            spread = float(matrix.detach().std())
            if matrix.shape[1] == 16:
                assert spread == pytest.approx(0.88 * 0.001, rel=0.1)  # a normal of 0.001, cut at two of it
                assert float(matrix.detach().abs().max()) <= 0.002
            else:
                assert spread == pytest.approx(1 / 64**0.5 / 3**0.5, rel=0.1)
            assert stored(part, name).unique().numel() == 2
        model.init_weights()
    before = [matrix.detach().clone() for *_, matrix in matrices(model)]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e4)
    tokens(model.train(), inputs(VIT, 2, torch.float32)).square().mean().backward()
    optimizer.step()
    for old, (*_, matrix) in zip(before, matrices(model), strict=True):
        assert (matrix != old).float().mean() > 0.99


def test_copies_pickles_traces_and_detaching():
    x = inputs(VIT, 2, torch.float64)
    plain = build(VIT)
    model = perturb(vpeft.attach(copy.deepcopy(plain), [{**LORA, "bits": 1}, {**ADAPTER, "bits": 4}])).eval()
    expected = tokens(model, x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(tokens(other, x), expected)
        assert len(matrices(other)) == len(matrices(model))
    traced = torch.jit.trace(model, x)(x)
    torch.testing.assert_close(traced[0], model(x)[0])
    vpeft.detach(model)
    plain.eval()
    assert torch.equal(tokens(model, x), tokens(plain, x))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"bits": 5}, "bits=5 must be a whole number from 1 to 4"),
        ({"bits": 0}, "bits=0 must be"),
        ({"bits": {"block1": 2}}, "bits=.* must be a whole number from 1 to 4"),
        ({"bits_error": "squared"}, "bits_error='squared' is of bits, which is not set"),
        ({"bits": 1, "bits_error": "cubed"}, "bits_error='cubed' must be one of 'absolute', 'squared'"),
    ],
)
def test_wrong_bits_are_refused(wrong, why):
    with pytest.raises(UserError, match=f"LoRA: {why}"):
        adapted({**LORA, **wrong})


def test_matrices_outside_modules_are_refused(monkeypatch):
    cls = PEFT_METHODS.get("LoRA")
    update = cls.update

    def leaking(self, *args):
        module = update(self, *args)
        module.kept = {"q": [module.down["q"]]}
        return module

    monkeypatch.setattr(cls, "update", leaking)
    with pytest.raises(UserError, match="LoRA: bits=1 does not reach its LowRank"):
        adapted({**LORA, "bits": 1})


def test_a_changed_packing_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    file = vpeft.save_adapter(adapted({**LORA, "bits": 2}), tmp_path / "x.safetensors")
    with safe_open(file, "pt") as opened:
        said = opened.metadata()
    tensors = load_file(file)
    tensors["packed.codes"][0] ^= 1
    save_file(tensors, file, said)
    with pytest.raises(UserError, match="was changed"):
        read_adapter(file)
