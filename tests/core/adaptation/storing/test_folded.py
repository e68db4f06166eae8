"""Adapters stored as those of plainer methods that answer the same."""

import pytest
import torch
from support.hosts import build, inputs, perturb, tokens
from support.runs import write_run

import vpeft
from vpeft.apis.config.load import load_config
from vpeft.apis.export.adapter import export_adapter
from vpeft.core.adaptation.storing.adapter_file import read_metadata

VIT, SWIN = "mmpretrain.VisionTransformer", "mmpretrain.SwinTransformer"
VFPT = {"type": "VFPT", "prompt_length": 5, "alpha": 0.7}
PREFIX = {"type": "PrefixTuning", "prefix_length": 3, "reparametrised": True, "hidden": 8}
#: Host, methods, and the names of what is stored.
CASES = {
    "vfpt": (VIT, [VFPT], ["VPTDeep"]),
    "vfpt-hidden": (VIT, [{**VFPT, "axes": "hidden", "norm": "ortho"}], ["VPTDeep"]),
    "vfpt-swin": (SWIN, [VFPT], ["VPTDeep"]),
    "prefix": (VIT, [PREFIX], ["PrefixTuning"]),
    "beside-others": (VIT, ["LoRA", VFPT, {"type": "VPTDeep", "prompt_length": 2}], ["LoRA", "VPTDeep", "VPTDeep"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plainer_adapter_answers_the_same(case, tmp_path):
    host, methods, names = CASES[case]
    model, plain = perturb(vpeft.attach(build(host), methods)).eval(), build(host)
    file = vpeft.save_adapter(model, tmp_path / "folded.safetensors", folded=True)
    stored = read_metadata(str(file))["methods"]
    assert [method["type"] for method in stored] == names
    assert not any(method.get("reparametrised") for method in stored)
    vpeft.load_adapter(plain, file)
    x = inputs(host, 2, torch.float64)
    torch.testing.assert_close(tokens(plain.eval(), x), tokens(model, x), rtol=0, atol=1e-10)


def test_what_does_not_fold_is_refused(tmp_path):
    model = vpeft.attach(build(VIT), ["LoRA", PREFIX | {"reparametrised": False}])
    with pytest.raises(vpeft.UserError, match="LoRA, PrefixTuning folds into no plainer method"):
        vpeft.save_adapter(model, tmp_path / "folded.safetensors", folded=True)
    assert not list(tmp_path.iterdir())


def test_a_run_is_exported_folded_and_opens_alone(tmp_path):
    run = write_run(tmp_path / "run", "vfpt_nano_vit", samples=60)
    cfg = load_config(run / "vfpt_nano_vit.py")
    out = tmp_path / "folded.safetensors"
    assert export_adapter(cfg, str(run / "adapter.safetensors"), str(out), folded=True) == out.stat().st_size
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    models = [vpeft.load(source, device="cpu").model for source in (run, out)]
    assert [list(model.backbone.peft_adaptation.methods) for model in models] == [["vfpt"], ["vptdeep"]]
    first, second = (model(x, mode="tensor") for model in models)
    torch.testing.assert_close(second, first, rtol=1e-4, atol=1e-4)
