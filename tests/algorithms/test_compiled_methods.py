"""Every method, and every kind of block, compiled whole: ``torch.compile(fullgraph=True)`` gives what the model gives.

A sample in the ordinary suite, all of it by hand with ``--catalogue``. In float64, where it is seen that the function
is the same, whatever rounds.
"""

import pytest
import torch
from support.design import METHODS, ON_IMAGES
from support.hosts import TINY, _tensors, build, inputs, loss, perturb, seeded
from torch import _dynamo as dynamo

import vpeft

VIT, VIDEO = "timm.VisionTransformer", "mmaction.VisionTransformer"
#: One of each mechanism: beside a linear, over its output, beside a branch, among the tokens, of keys and values, by
#: weights made anew, on the map, a network at the side, and two whose answers hang on the image.
SAMPLE = ("LoRA", "DoRA", "SSF", "AdaptFormer", "VPTDeep", "PrefixTuning", "BOFT", "Mona", "LST", "DyT", "VP")
ON_KINDS = ("LoRA", "AdaptFormer", "VPTDeep", "SSF", "Mona")
SAMPLE_KINDS = (
    ("timm.SwinTransformer", "LoRA"),
    ("timm.ConvNeXt", "Mona"),
    ("transformers.CLIPVisionTransformer", "SSF"),
    ("mmpretrain.VisionTransformer", "VPTDeep"),
)
#: Hosts whose tiny form is read by hooks that come and go, which no program holds: here the model itself is called.
CALLED = ("mmaction.TimeSformer",)


@pytest.fixture(autouse=True)
def _fresh(caplog):
    caplog.set_level("INFO", "torch.__trace")  # pytest would keep every line of it
    dynamo.reset()
    yield
    dynamo.reset()


def adapted(host, method, dtype, **options):
    """The tiny host with the method, moved from its start."""
    model = build(host, dtype, **options)
    seeded(11)
    return perturb(vpeft.attach(model, {"type": method}))


def adapted_unless_refused(host, method):
    """The same in float64 for the whole matrix; a pair that the host refuses, which the catalogue tells, is skipped."""
    try:
        return adapted(host, method, torch.float64)
    except vpeft.UserError as refusal:
        pytest.skip(str(refusal))


def run(host, model, call, images):
    """Everything that comes out, in one tensor, and the gradients of what is trained."""
    model.zero_grad()
    seeded(0)
    out = torch.cat([one.reshape(len(images), -1) for one in _tensors(call(images))], dim=1)
    if out.requires_grad:
        loss(out).backward()
    return out.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compiles_whole(host, model, within=1e-9):
    """Both modes are one graph; in evaluation outputs and gradients are compared, each by its largest number."""
    images, stated = inputs(host, 3, next(model.parameters()).dtype), TINY[host].call
    call = model if stated is None or host in CALLED else lambda x: stated(model, x)
    model.train()
    torch.compile(call, backend="eager", fullgraph=True)(images)
    model.eval()
    out, grads = run(host, model, call, images)
    compiled_out, compiled_grads = run(host, model, torch.compile(call, backend="aot_eager", fullgraph=True), images)
    assert (compiled_out - out).abs().max() <= within * out.abs().max()
    assert compiled_grads.keys() == grads.keys()
    for name, grad in grads.items():
        assert (compiled_grads[name] - grad).abs().max() <= within * max(grad.abs().max(), 1e-3), name


@pytest.mark.parametrize("method", SAMPLE)
def test_a_method(method):
    compiles_whole(VIT, adapted(VIT, method, torch.float64, depth=2))


@pytest.mark.parametrize(("host", "method"), SAMPLE_KINDS)
def test_a_kind_of_block(host, method):
    compiles_whole(host, adapted(host, method, torch.float64))


@pytest.mark.catalogue
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method(method):
    host = VIT if method in ON_IMAGES else VIDEO
    compiles_whole(host, adapted_unless_refused(host, method))


@pytest.mark.catalogue
@pytest.mark.parametrize("method", ON_KINDS)
@pytest.mark.parametrize("host", sorted(TINY))
def test_every_kind_of_block(host, method):
    compiles_whole(host, adapted_unless_refused(host, method))
