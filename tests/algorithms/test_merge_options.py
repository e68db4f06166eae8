"""Merging under the hyper-parameters that change what is merged, every host with some of them, LayerScale included."""

import pytest
from support.design import in_turn
from support.hosts import build, perturb, tokens
from support.refusals import attached, load_merged, merged

import vpeft
from vpeft.registry import HOSTS

LINEAR_TUNER = {"type": "UTuning", "kind": "adapter", "act": "none", "length": 4}
OPTIONS = {
    "lora-all": {"type": "LoRA", "rank": 4, "alpha": 3, "targets": ["q", "k", "v", "proj", "fc1", "fc2"]},
    "lora-joint": {"type": "LoRA", "rank": 4, "targets": ["qkv"]},
    "repadapter-one-group": {"type": "RepAdapter", "groups": 1, "scale": 0.5},
    "repadapter-attn": {"type": "RepAdapter", "where": "attn"},
    "arc-attn": {"type": "ARC", "where": "attn", "bottleneck": 8},
    "krona-all": {"type": "KronA", "size": 8, "targets": ["q", "k", "v"]},
    "sct-mlp": {"type": "SCT", "channels": 8, "variant": "mlp"},
    "sct-mlp-scale": {"type": "SCT", "channels": 8, "variant": "mlp", "form": "scale", "scale": 0.3},
    "sct-qkv": {"type": "SCT", "channels": 8, "variant": "qkv"},
    "gps": {"type": "GPS", "entries": 3},
    **{f"tuner-{op}": {**LINEAR_TUNER, "op": op} for op in ("qkv", "proj", "fc1", "fc2")},
}
VARIANTS = {
    "mmpretrain.VisionTransformer": {"layer_scale_init_value": 0.1},
    "timm.VisionTransformer": {"init_values": 0.1},
}


def check(name, plain, method, images):
    model = perturb(attached(name, plain, method))
    out = tokens(model, images)
    assert (out - tokens(plain, images)).abs().max() > 1e-3
    assert merged(model) == []
    for same in (model, load_merged(plain, model)):
        assert (tokens(same, images) - out).abs().max() <= 1e-10 * out.abs().max()


@pytest.mark.parametrize(("host", "case"), in_turn(sorted(HOSTS.module_dict), list(OPTIONS), 3))
def test_merged_equals_unmerged(host, case, images):
    check(host, build(host), OPTIONS[case], images)


@pytest.mark.parametrize("host", VARIANTS)
@pytest.mark.parametrize("method", ["SSF", "Hydra", "DiffFit", "FacT-TT", OPTIONS["sct-mlp"]], ids=str)
def test_through_layer_scale(host, method, images):
    check(host, build(host, **VARIANTS[host]), method, images)


@pytest.mark.parametrize(
    "method", [{"type": "SCT", "channels": 8}, {**LINEAR_TUNER, "op": "ffn"}], ids=["sct", "tuner"]
)
def test_other_variants_are_refused(method):
    model = vpeft.attach(build("timm.VisionTransformer"), method)
    with pytest.raises(vpeft.UserError, match="cannot be merged"):
        vpeft.merge(model)
