"""Several methods on one host: attach, train, merge what can be merged, save and load as one adapter."""

import copy

import pytest
import torch
from support.hosts import build, loss, perturb, tokens, trained

import vpeft
from vpeft.core.adaptation.find import get_adaptation
from vpeft.core.adaptation.report import parameter_report

SCT = {"type": "SCT", "channels": 8, "variant": "mlp"}
#: Methods, and the keys of those of which something stays after merging (None: nothing merges).
PAIRS = {
    "lora+vpt": (["LoRA", {"type": "VPTDeep", "prompt_length": 3}], ["vptdeep"]),
    "ssf+adaptformer": (["SSF", {"type": "AdaptFormer", "bottleneck": 8}], ["adaptformer"]),
    "vpt+noah": ([{"type": "VPTShallow", "prompt_length": 3}, "NOAH"], ["noah", "vptshallow"]),
    "two-prompts": ([{"type": "VPTDeep", "prompt_length": 2}, {"type": "VPTDeep", "prompt_length": 3}], None),
    "rep+fact+difffit": (["RepAdapter", {"type": "FacT-TT", "rank": 4}, "DiffFit"], []),
    "hydra+arc": (["Hydra", {"type": "ARC", "bottleneck": 8}], []),
    "sct+gps": ([SCT, "GPS"], []),
    "krona+bitfit": (["KronA", "BitFit"], []),
    "lntune+mona": (["LNTune", "Mona"], ["mona"]),
    "dtl+lora": (["LoRA", {"type": "DTL", "first_out": 2}], ["dtl"]),
    "convpass+prefix+snf": (["Convpass", "PrefixTuning", "SNF"], None),
    "dyt+lora": (["LoRA", {"type": "DyT", "bottleneck": 4}], ["dyt"]),
    "e3va+linear": (["E3VA", "Linear"], ["e3va"]),
}
hosts = pytest.mark.parametrize("host", ["mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"])
cases = pytest.mark.parametrize("case", PAIRS)


def x():
    return torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


@hosts
@cases
def test_life(host, case, tmp_path):
    methods, stays = PAIRS[case]
    plain = build(host)
    model = perturb(vpeft.attach(copy.deepcopy(plain), methods), 0.05)
    # A shallow prompt's way, the skipped tokens: chance must not hide a tensor's gradient.
    model.train()
    for seed in range(4):
        loss(tokens(model, x(), seed)).backward()
    assert [k for k, p in trained(model).items() if p.grad is None or not p.grad.any()] == []
    model.zero_grad()
    model.eval()
    report = parameter_report(model)
    assert report.trainable_without_head == sum(p.numel() for p in trained(model).values())
    out = tokens(model, x())
    vpeft.save_adapter(model, tmp_path / "a.safetensors")
    other = vpeft.load_adapter(copy.deepcopy(plain), tmp_path / "a.safetensors")
    assert torch.equal(tokens(other, x()), out)
    if stays is None:
        with pytest.raises(vpeft.UserError, match="cannot be merged"):
            vpeft.merge(model)
    else:
        assert vpeft.merge(model) == stays
        with torch.no_grad():
            merged = tokens(model, x())
        assert (merged - out).abs().max() <= 1e-10 * out.abs().max()
        if not stays:
            plain.load_state_dict(vpeft.plain_state_dict(model), strict=True)
            assert (tokens(plain, x()) - out).abs().max() <= 1e-10 * out.abs().max()
        if get_adaptation(model).merged:
            vpeft.unmerge(model)
    vpeft.detach(model)
    assert torch.equal(tokens(model, x()), tokens(build(host), x()))


@hosts
def test_the_order_of_independent_methods_does_not_matter(host):
    outs = []
    for order in (1, -1):
        model = vpeft.attach(build(host), ["SSF", {"type": "AdaptFormer", "bottleneck": 8}][::order])
        with torch.no_grad():
            for key, param in sorted(trained(model).items()):
                generator = torch.Generator().manual_seed(len(key) * 1000 + param.numel())
                param.copy_(torch.randn(param.shape, generator=generator, dtype=param.dtype) * 0.1 + 0.5)
        outs.append(tokens(model, x()))
    torch.testing.assert_close(*outs, rtol=1e-10, atol=1e-10)


def test_two_prompt_methods_are_one_with_both_prompts():
    """Attention does not see the order of tokens without position."""
    two = vpeft.attach(build("mmpretrain.VisionTransformer"), PAIRS["two-prompts"][0])
    one = vpeft.attach(build("mmpretrain.VisionTransformer"), {"type": "VPTDeep", "prompt_length": 5})
    state = two.state_dict()
    with torch.no_grad():
        for i, layer in enumerate(one.layers):
            parts = [state[f"layers.{i}.peft.{key}.prompts.weight"] for key in ("vptdeep", "vptdeep_2")]
            layer.peft.vptdeep.prompts.weight.copy_(torch.cat(parts))
    torch.testing.assert_close(tokens(two, x()), tokens(one, x()), rtol=1e-10, atol=1e-10)
