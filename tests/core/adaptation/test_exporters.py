"""Programs that exporters write compute the adapted model, for every method."""

import contextlib
import io

import pytest
import torch
from support.design import ON_IMAGES
from support.hosts import build, perturb
from torchvision.models.feature_extraction import create_feature_extractor

import vpeft

onnxruntime = pytest.importorskip("onnxruntime")
onnxruntime.set_default_logger_severity(3)

VIT, SWIN = "timm.VisionTransformer", "timm.SwinTransformer"
#: Methods of every form: beside a linear, behind it, tokens, maps, chosen entries, a side network.
SOME = ("LoRA", "SSF", "VPTDeep", "Mona", "SCT", "DyT")
ALWAYS = {
    ("LoRA", "onnx"),
    ("LoRA", "trace"),
    ("LoRA", "export"),
    ("SCT", "onnx"),
    ("Mona", "onnx"),
    ("VPTDeep", "trace"),
}


def cases():
    for host in (VIT, SWIN):
        for method in ON_IMAGES:
            if host == SWIN and method not in SOME:
                continue
            for exporter in ("trace", "onnx", "export", "dynamo"):
                if exporter in ("export", "dynamo") and (method not in SOME or host == SWIN):
                    continue
                slow = host == SWIN or (method, exporter) not in ALWAYS
                yield pytest.param(host, method, exporter, marks=pytest.mark.slow if slow else ())


def exported(model, x, exporter, folder):
    """The output of what an exporter makes of a model."""
    if exporter == "trace":
        return torch.jit.trace(model, (x,))(x)
    if exporter == "export":
        return torch.export.export(model, (x,)).module()(x)
    path = str(folder / "model.onnx")
    with contextlib.redirect_stdout(io.StringIO()):
        torch.onnx.export(model, (x,), path, dynamo=exporter == "dynamo", input_names=["x"])
    session = onnxruntime.InferenceSession(path)
    return torch.tensor(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("host", "method", "exporter"), cases())
def test_an_exported_program_computes_the_adapted_model(host, method, exporter, tmp_path):
    model = perturb(vpeft.attach(build(host, torch.float32), method)).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        want = model(x)
        with vpeft.disabled(model):
            plain = model(x)
    out = exported(model, x, exporter, tmp_path)
    torch.testing.assert_close(out, want, atol=1e-4, rtol=1e-4)
    assert (plain - want).abs().max() > 1e-3  # so that a program of the base alone would be seen
    with torch.no_grad():
        assert torch.equal(model(x), want)


@pytest.mark.parametrize("host", [VIT, SWIN])
def test_torch_fx_goes_through_what_was_folded_in_and_taken_off(host):
    model = perturb(vpeft.attach(build(host, torch.float32), "LoRA")).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    with pytest.raises(vpeft.UserError, match=r"vpeft\.merge\(model\), then vpeft\.detach"):
        create_feature_extractor(model, ["norm"])
    model.eval()
    found = []
    handle = model.norm.register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        model(x)
        handle.remove()
        vpeft.merge(model)
        vpeft.detach(model, restore=False)
        assert torch.allclose(create_feature_extractor(model, ["norm"])(x)["norm"], found[0], atol=1e-5)
