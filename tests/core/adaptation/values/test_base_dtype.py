"""A frozen base in half precision and in few bits: what trains, what is stored, merged, given back, and refused."""

import copy
import pickle

import pytest
import timm
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from sklearn.datasets import load_digits
from support.design import METHODS, ON_IMAGES
from support.hosts import ON_CLIPS, build, inputs, loss, perturb

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.core.backbones.kept.few_bits import FewBits
from vpeft.core.backbones.nano import NANO_BACKBONES
from vpeft.errors import UserError

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"
#: Beside a low-rank update: norms, biases and tables of the base, the position embedding and the patch embedding.
EXTRA = {"type": "LoRA", "extra": ["norm", "bias", "pos-embed", "patch-embed"]}
#: With the largest relative difference of the tiny ViT's outputs from those on the float32 base, of random weights.
KINDS = {"bfloat16": 0.03, "float16": 0.01, "int8": 0.03, "int4": 0.4, ("int8", "bfloat16"): 0.04}


def adapted(method, kind="bfloat16", host=VIT):
    return vpeft.attach(build(host, torch.float32), method, base_dtype=kind)


def distance(got, want):
    return ((got - want).norm() / want.norm()).item()


#: Why a method is refused, by what the base is kept in.
REFUSED = {
    ("Full", "bfloat16"): "all of the base, nothing of it is frozen",
    ("Full", "int8"): "all of the base, nothing of it is frozen",
    ("BlockTune", "int8"): "no frozen linear",
}


@pytest.mark.parametrize("kind", ["bfloat16", "int8"])
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_such_a_base_or_says_why_not(method, kind):
    host = VIT if method in ON_IMAGES else ON_CLIPS[0]
    if (method, kind) in REFUSED:
        plain = build(host, torch.float32)
        before = {key: value.clone() for key, value in plain.state_dict().items()}
        with pytest.raises(UserError, match=REFUSED[method, kind]):
            vpeft.attach(plain, method, base_dtype=kind)
        assert all(type(value) is torch.Tensor for value in plain.state_dict().values())
        assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
        return
    model, x = perturb(adapted(method, kind, host)).train(), inputs(host)
    with get_adaptation(model).host.passes.clips(x.shape[2]) if x.dim() == 5 else torch.enable_grad():
        x = x.transpose(1, 2).flatten(0, 1) if x.dim() == 5 else x
        own = [p for p in model.parameters() if p.requires_grad]
        frozen = {key: p.detach().clone() for key, p in model.named_parameters() if not p.requires_grad}
        start, optimizer = [p.detach().clone() for p in own], torch.optim.AdamW(own, lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            out = model(x)
            loss(out).backward()
            optimizer.step()
    assert out.dtype is torch.float32
    assert {p.dtype for p in own} == {torch.float32}
    if kind == "bfloat16":
        assert {p.dtype for p in frozen.values()} - {torch.float32} == {torch.bfloat16}
    else:
        assert any(isinstance(p, FewBits) for p in frozen.values())
    assert all(torch.equal(p, frozen[key]) for key, p in model.named_parameters() if key in frozen)
    moved = sum(not torch.equal(p, before) for p, before in zip(own, start, strict=True))
    assert moved >= len(own) - (1 if method == "EVP" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["LoRA", "PiSSA", "BitFit", "PartialK", EXTRA], ids=str)
def test_stored_merged_and_given_back(tmp_path, kind, method):
    plain, x = build(VIT, torch.float32), inputs(VIT)
    model = perturb(adapted(method, kind))
    want = model(x).detach()
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(x), want)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    same, wide = adapted(method, kind), build(VIT, torch.float32)
    for one in (same, wide):
        vpeft.load_adapter(one, tmp_path / "a.safetensors")
    assert torch.equal(same(x), want)
    assert 0 < distance(wide(x), want) < KINDS[kind]
    if method in ("LoRA", "PiSSA", EXTRA):
        vpeft.merge(model)
        other = build(VIT, torch.float32)
        other.load_state_dict(vpeft.plain_state_dict(model))
        assert distance(other(x), want) < (KINDS[kind] if "bfloat16" in kind or kind == "float16" else 1e-5)
        vpeft.unmerge(model)
        assert torch.equal(model(x), want)
    vpeft.detach(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not any(isinstance(p, FewBits) for p in model.parameters())
    for (key, p), q in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert (
            torch.equal(p, q)
            or kind not in ("bfloat16", "float16")
            or torch.equal(p, q.to(getattr(torch, kind)).float())
        ), key
    assert model(x).dtype is torch.float32


def test_it_starts_as_a_base_that_was_halved_by_hand():
    halved, x, head = build(VIT, torch.float32).bfloat16(), inputs(VIT), build(VIT, torch.float32).head
    want = head(halved.forward_head(halved.forward_features(x.bfloat16()), pre_logits=True).float())
    model = adapted("LoRA")
    assert torch.equal(model(x), want)
    with vpeft.disabled(perturb(model)):
        assert torch.equal(model(x), want)


def test_a_half_base_gets_its_trained_parameters_in_float():
    model = vpeft.attach(build(VIT, torch.bfloat16), "BitFit", base_dtype="bfloat16")
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    text = render(parameter_report(model))
    assert "precision: base bfloat16, float32 where it is trained" in text
    assert "trained in bfloat16" not in text
    vpeft.detach(model)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


def test_a_later_conversion_is_followed():
    model, x = perturb(adapted(EXTRA)), inputs(VIT)
    for convert in (model.double, model.half):
        assert convert()(x).dtype is torch.float32
    assert model.double()(x.double()).dtype is torch.float64


def test_stages_windows_and_autocast():
    model, x = perturb(adapted(EXTRA | {"extra": ["norm", "bias", "table"]}, host=SWIN)), inputs(SWIN)
    with torch.autocast("cpu", torch.bfloat16):
        loss(model.train()(x).float()).backward()
    assert all(p.grad is not None and p.grad.dtype is torch.float32 for p in model.parameters() if p.requires_grad)
    assert model.eval()(x).dtype is torch.float32


@pytest.mark.parametrize("wrong", ["bf16", torch.float32, "int3", 8, [], ["int8", "int4"]])
def test_what_a_base_cannot_be_kept_in_is_refused(wrong):
    with pytest.raises(UserError, match=r"^base_dtype="):
        adapted("LoRA", wrong)


def test_a_further_adapter_takes_the_base_as_it_is():
    model, x = vpeft.attach(build(VIT, torch.float32), "LoRA", base_dtype="bfloat16", name="a"), inputs(VIT)
    with pytest.raises(UserError, match="the base has an adapter already"):
        vpeft.attach(model, "LoRA", name="b", base_dtype="float16")
    with pytest.raises(UserError, match=r"with it frozen: attach the adapter that trains existing parameters first"):
        vpeft.attach(model, "BitFit", name="b")
    vpeft.attach(model, "AdaptFormer", name="c")
    assert perturb(model)(x).dtype is torch.float32
    want = model(x)
    vpeft.use(model, "a")
    assert model(x).dtype is torch.float32
    vpeft.drop_adapter(model, "a")
    vpeft.use(model, "c")
    assert torch.equal(model(x), want)
    vpeft.detach(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model._forward_hooks


def test_a_config_states_it():
    from vpeft.registry import MODELS

    cfg = {"type": "vpeft.PEFT", "of": "mmpretrain.VisionTransformer", "method": "BitFit", "base_dtype": "bfloat16"}
    cfg |= {"arch": {"embed_dims": 64, "num_layers": 2, "num_heads": 4, "feedforward_channels": 128}, "img_size": 32}
    model = MODELS.build({**cfg, "base": "random"})
    model.init_weights()
    (out,) = model(torch.randn(1, 3, 32, 32))
    assert out.dtype is torch.float32
    assert model.layers[0].attn.qkv._parameters["weight"].dtype is torch.bfloat16
    assert model.layers[0].attn.qkv._parameters["bias"].dtype is torch.float32


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("nano_vit", {"bfloat16": 0.011, "int8": 0.011, "int4": 0.15, ("int8", "bfloat16"): 0.015}),
        ("nano_swin", {"bfloat16": 0.011, "int8": 0.011, "int4": 0.06, ("int8", "bfloat16"): 0.015}),
        ("vit", {"bfloat16": 0.016, "int8": 0.025, "int4": 0.33, ("int8", "bfloat16"): 0.033}),
    ],
)
def test_the_stated_error_of_features(name, bounds):
    """Relative to the float32 base: of the shipped hosts on handwritten digits, of a random ViT on noise."""
    made = {"nano_vit": nano, "nano_swin": nano, "vit": random_vit}[name]
    x = digits() if name.startswith("nano") else torch.randn(2, 3, 64, 64, generator=seeded(0))
    with torch.no_grad():
        want = features(made(name), x)
        for kind, most in bounds.items():
            got = features(vpeft.attach(made(name), "LoRA", base_dtype=kind), x)
            assert most / 3 < distance(got, want) < most, kind


def features(model, x):
    out = model(x)
    return (out[-1] if isinstance(out, tuple) else out).flatten(1)


def digits():
    images = torch.tensor(load_digits().images[:64] / 8 - 1, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    return torch.nn.functional.interpolate(images, size=32, mode="bilinear")


def nano(name):
    settings = {key: value for key, value in NANO_BACKBONES[name].items() if key != "type"}
    cls = {"nano_vit": VisionTransformer, "nano_swin": SwinTransformer}[name]
    model = cls(**settings, init_cfg={"type": "Pretrained", "checkpoint": f"vpeft://{name}"})
    model.init_weights()
    model.eval()
    return model


def random_vit(name):
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", img_size=64, num_classes=0).eval()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_an_adapter_file_says_what_its_base_was_kept_in(tmp_path, caplog):
    model, x = perturb(adapted("LoRA", "int8")), inputs(VIT)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    said = get_adaptation(model).base.describe()["tensors"]
    assert said["blocks.0.attn.qkv.weight"]["bits"] == "int8"
    plain = vpeft.attach(build(VIT, torch.float32), "LoRA")
    assert get_adaptation(model).base.fingerprint() == get_adaptation(plain).base.fingerprint()
    notes = []
    for kind in (None, "int8", "int4"):
        other = vpeft.attach(build(VIT, torch.float32), "LoRA", base_dtype=kind)
        notes.append(get_adaptation(other).base._compare(get_adaptation(model).base.describe()).notes())
        vpeft.load_adapter(other, tmp_path / "a.safetensors")
        assert torch.equal(other(x), model(x)) == (kind == "int8")
    assert not notes[1]
    assert "kept in int8, which are here in floating point" in notes[0][0]
    assert "kept in int8, which are here in int4" in notes[2][0]
    other = build(VIT, torch.float32)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight.mul_(1.5)
    with pytest.raises(UserError, match="trained on other base weights"):
        vpeft.load_adapter(vpeft.attach(other, "LoRA", base_dtype="int8"), tmp_path / "a.safetensors")


def test_a_state_dict_that_is_merged_comes_back():
    model, x = perturb(adapted("LoRA", "int8")), inputs(VIT)
    want = model(x)
    vpeft.merge(model)
    merged, state = model(x), model.state_dict()
    assert all(type(value) is torch.Tensor for key, value in state.items() if "qkv.weight" in key)
    other = adapted("LoRA", "int8")
    other.load_state_dict(state)
    assert torch.equal(other(x), merged)
    vpeft.unmerge(other)
    torch.testing.assert_close(other(x), want, rtol=1e-5, atol=1e-5)


def test_a_base_loaded_later_is_kept_so_too():
    other, x = build(VIT, torch.float32), inputs(VIT)
    with torch.no_grad():
        other.blocks[0].attn.qkv.weight.mul_(1.5)
    model = adapted("LoRA", "int8")
    model.load_state_dict(other.state_dict(), strict=False)
    want = vpeft.attach(other, "LoRA", base_dtype="int8")
    assert torch.equal(model(x), want(x))
    assert isinstance(model.blocks[0].attn.qkv.weight, FewBits)
    assert get_adaptation(model).base.fingerprint() == get_adaptation(want).base.fingerprint()


def test_a_random_base_is_not_kept_in_few_bits():
    from vpeft.registry import MODELS

    with pytest.raises(UserError, match=r"base_dtype='int8' of vpeft.PEFT beside base='random'"):
        MODELS.build(
            {
                "type": "vpeft.PEFT",
                "of": "mmpretrain.VisionTransformer",
                "method": "LoRA",
                "base": "random",
                "base_dtype": "int8",
            }
        )


def test_a_base_that_a_graph_holds_is_left_as_it_was():
    model, x = build(VIT, torch.float32), inputs(VIT).requires_grad_()
    model.requires_grad_(False)
    before, loss = copy.deepcopy(model.state_dict()), model(x).sum()
    with pytest.raises(UserError, match="still held by a graph"):
        vpeft.attach(model, "LoRA", base_dtype="int8")
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    loss.backward()
