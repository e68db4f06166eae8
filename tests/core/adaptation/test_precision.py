"""In which precision an adapter is kept, computes, and merges; and what is said of it."""

import copy

import pytest
import torch
from support.design import ON_IMAGES
from support.hosts import build, inputs, perturb, tokens

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report, render
from vpeft.errors import UserError

VIT, SWIN, SEG = "timm.VisionTransformer", "mmdet.SwinTransformer", "mmseg.VisionTransformer"
METHODS = [name for name in ON_IMAGES if name != "Linear"]  # it adds nothing to the backbone
#: Methods of every form, where one host does not speak for all.
SOME = ("LoRA", "Hydra", "VPTShallow", "PrefixTuning", "E3VA", "SNF", "UTuning")


def dtypes(model):
    return {p.dtype for module in get_adaptation(model).peft_modules() for p in module.parameters()}


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("base", "wanted", "want"),
    [
        (None, None, torch.float32),
        (torch.float32, None, torch.float32),
        (torch.float64, None, torch.float64),
        (None, "same", "same"),
        (torch.float32, "same", "same"),
        (torch.float64, torch.float32, torch.float32),
    ],
)
def test_adapters_are_float32_unless_told_otherwise(half, base, wanted, want):
    named = str(half).removeprefix("torch.") if wanted == "same" else wanted
    model = vpeft.attach(build(VIT, base or half), "LoRA", dtype=named)
    assert dtypes(model) == {half if want == "same" else want}
    x = torch.randn(1, 3, 32, 32).to(base or half)
    assert model.eval()(x).dtype is x.dtype


def test_an_unknown_precision_is_refused():
    for wrong in ("bf16", torch.int8, 16):
        with pytest.raises(UserError, match=r"dtype=.* of the adapter"):
            vpeft.attach(build(VIT, torch.float32), "LoRA", dtype=wrong)


@pytest.mark.parametrize(("host", "method"), [(VIT, m) for m in METHODS] + [(h, m) for h in (SWIN, SEG) for m in SOME])
def test_every_method_runs_on_a_half_base_without_autocast(host, method):
    wide = perturb(vpeft.attach(build(host, torch.float32), method))
    model = vpeft.attach(build(host, torch.float32).bfloat16(), method)
    model.load_state_dict(wide.state_dict())
    for one in (wide, model):
        one.eval()
    x = inputs(host, seed=0)
    want, got = tokens(wide, x), tokens(model, x.bfloat16())
    assert got.dtype is torch.bfloat16
    assert dtypes(model) <= {torch.float32}
    assert (got.float() - want).norm() < 0.12 * want.norm()
    model.train()
    tokens(model, x.bfloat16()).float().square().mean().backward()
    own = [p for module in get_adaptation(model).peft_modules() for p in module.parameters()]
    assert all(p.grad is None or p.grad.dtype is torch.float32 for p in own)
    assert not own or any(p.grad is not None and p.grad.abs().sum() > 0 for p in own)
    with torch.autocast("cpu", torch.bfloat16):
        tokens(model, x.bfloat16()).float().square().mean().backward()


def test_small_steps_do_not_vanish_on_a_half_base():
    model = vpeft.attach(build(VIT, torch.bfloat16), "LoRA")
    perturb(model, 0.5)
    own = [p for module in get_adaptation(model).peft_modules() for p in module.parameters()]
    start = [p.detach().clone() for p in own]
    optimizer = torch.optim.AdamW(own, lr=1e-4, weight_decay=0)
    x = torch.randn(2, 3, 32, 32).bfloat16()
    for _ in range(3):
        optimizer.zero_grad()
        model(x).float().square().mean().backward()
        optimizer.step()
    assert all((p != q).float().mean() > 0.9 for p, q in zip(own, start, strict=True))


def test_a_half_base_merges_in_float_and_rounds_once():
    model = vpeft.attach(build(VIT, torch.bfloat16), {"type": "LoRA", "targets": ("proj",)})
    perturb(model)
    block = get_adaptation(model).host.blocks[0]
    weight, before = block.module.attn.proj.weight, block.module.attn.proj.weight.detach().clone()
    module = block.placed("lora")["proj"]
    want = (before.double() + module.affine()[0]).bfloat16()
    vpeft.merge(model)
    assert torch.equal(weight, want)
    vpeft.unmerge(model)
    assert torch.equal(weight, before)


def test_the_adapter_follows_a_later_conversion_and_the_report_says_so():
    model = vpeft.attach(build(VIT, torch.bfloat16), "LoRA")
    assert "precision: base bfloat16, adapter float32" in render(parameter_report(model))
    for convert, dtype in ((model.half, "float16"), (model.double, "float64"), (model.bfloat16, "bfloat16")):
        convert()
        text = render(parameter_report(model))
        assert f"precision: base {dtype}, adapter {dtype}" in text
        assert (f"trained in {dtype}" in text) == (dtype != "float64")
        x = torch.randn(1, 3, 32, 32).to(getattr(torch, dtype))
        assert model.eval()(x).dtype is x.dtype


def test_what_the_base_trains_in_half_is_counted():
    model = vpeft.attach(build(VIT, torch.bfloat16), "BitFit")
    report = parameter_report(model)
    assert report.precision.trained_in_half == {"bfloat16": report.total}
    assert "steps below about 0.004 of a value are lost" in render(report)


def test_equal_precisions_are_left_alone():
    """The same numbers, bit for bit, as without any casting."""
    model = perturb(vpeft.attach(build(VIT, torch.float32), ["LoRA", "VPTDeep"])).eval()
    x = torch.randn(2, 3, 32, 32)
    want = model(x)
    get_adaptation(model).host.passes.sample = None
    assert torch.equal(model(x), want)


def test_a_config_states_the_precision():
    from vpeft.registry import MODELS

    cfg = {"type": "vpeft.PEFT", "of": "mmpretrain.VisionTransformer", "method": "LoRA", "dtype": "bfloat16"}
    cfg |= {"arch": {"embed_dims": 64, "num_layers": 2, "num_heads": 4, "feedforward_channels": 128}, "img_size": 32}
    assert dtypes(MODELS.build({**cfg, "base": "random"})) == {torch.bfloat16}


def test_copies_keep_their_precision():
    model = vpeft.attach(build(VIT, torch.bfloat16), "LoRA")
    assert dtypes(copy.deepcopy(model)) == {torch.float32}
