"""The options that every method has, on every registered method: a small ViT and a small Swin."""

import re

import pytest
import torch
from support import refusals
from support.hosts import again, inputs, perturb, seeded, tokens, trained

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.options.part import home
from vpeft.core.adaptation.report import parameter_report
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"
METHODS = sorted(PEFT_METHODS.module_dict)
#: Their last block.
LAST = {VIT: {2}, f"{VIT}/clips": {2}, SWIN: {3}}


def attached(host, cfg):
    """The tiny host with the method, and what it is on it; skips what this host refuses."""
    seeded(11)
    model = refusals.attached(host, again(host, torch.float64), cfg)
    return model, get_adaptation(model)


def blocks_with_something(adaptation):
    """Indices of the blocks that hold a module of a method, or that a trained parameter goes with."""
    host, trained_names = adaptation.host, set(adaptation.trained)
    found = {block.index for block in host.blocks if any(site.entries for site in block.sites.values())}
    found |= {block.index for block in host.blocks if "peft" in block.module._modules}
    return found | {home(host, p.block, p.site) for p in host.parameters() if p.name in trained_names}


@pytest.mark.parametrize("host", [VIT, SWIN])
@pytest.mark.parametrize("method", METHODS)
def test_in_the_last_block_alone(method, host, tmp_path):
    if PEFT_METHODS.get(method).needs_frames and host == VIT:
        host = f"{VIT}/clips"
    if why := PEFT_METHODS.get(method).needs_all_blocks:
        with pytest.raises(vpeft.UserError, match=f"^{re.escape(f'{method}: blocks=1 is refused: {why}.')}$"):
            vpeft.attach(again(host, torch.float64), {"type": method, "blocks": 1})
        return
    model, adaptation = attached(host, {"type": method, "blocks": 1})
    assert blocks_with_something(adaptation) <= LAST[host]
    real = sum(p.numel() for p in trained(model).values())
    assert adaptation.count() == real == parameter_report(model).trainable_without_head

    perturb(model)
    x = inputs(host, 2, torch.float64)
    with torch.no_grad():
        out = tokens(model, x)
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = again(host, torch.float64)
    vpeft.load_adapter(other, tmp_path / "a.safetensors")
    with torch.no_grad():
        assert torch.equal(tokens(other, x), out)
    assert [method.blocks for method in get_adaptation(other).methods.values()] == [1]

    vpeft.detach(model)
    plain = again(host, torch.float64).state_dict()
    assert all(torch.equal(value, plain[key]) for key, value in model.state_dict().items() if "head" not in key)
    if PEFT_METHODS.get(method).mergeable:
        refusals.merged(other)
        with torch.no_grad():
            torch.testing.assert_close(tokens(other, x), out, rtol=1e-9, atol=1e-9)


NUMBERS = {"rank": (2, 4), "bottleneck": (2, 4), "prompt_length": (1, 3), "drop": (0.0, 0.25)}


def shared_by_blocks(host, method):
    """Names of the modules that a method keeps at the backbone, at no site."""
    model, adaptation = attached(host, {"type": method})
    placed = {id(entry.module) for site in adaptation.host.every_site() for entry in site.entries}
    found = getattr(model, "peft", {})
    return [name for key in found for name, module in found[key].items() if id(module) not in placed]


def sized(method):
    """A number of the method's that may differ, with a value for each of the two stages."""
    known = PEFT_METHODS.get(method).hyper_parameters()
    return next(((name, NUMBERS[name]) for name in NUMBERS if name in known), None)


@pytest.mark.parametrize("method", [method for method in METHODS if sized(method)])
def test_a_size_by_stage(method):
    field, (first, second) = sized(method)
    cls = PEFT_METHODS.get(method)
    cfg = {"type": method, field: {"stage0": first, "stage1": second}}
    together = cls.adds_losses or cls.follows_steps or cls.out_width is not Method.out_width
    if cls.needs_all_blocks or cls.in_a_row or together:
        with pytest.raises(vpeft.UserError, match=rf"^{re.escape(method)}: {field} by stage or block is refused"):
            vpeft.attach(again(SWIN, torch.float64), cfg)
        return
    shared = shared_by_blocks(SWIN, method)
    try:
        model, adaptation = attached(SWIN, cfg)
    except AssertionError:
        said = "|".join(f"{method}: {field} must be the same in these blocks: they share '{name}'." for name in shared)
        with pytest.raises(vpeft.UserError, match=f"^({said})$" if said else "nothing is shared"):
            vpeft.attach(again(SWIN, torch.float64), cfg)
        return
    counts = [
        attached(SWIN, {"type": method, field: size, "blocks": f"stage{stage}"})[1].count()
        for stage, size in enumerate((first, second))
    ]
    assert adaptation.count() == sum(counts)
    assert blocks_with_something(adaptation) == {0, 1, 2, 3}
    with torch.no_grad():
        assert torch.isfinite(tokens(model, inputs(SWIN, 2, torch.float64))).all()
