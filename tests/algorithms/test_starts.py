"""The start of every tensor of the methods beyond the first twelve: official, and identity where there is a choice."""

import itertools
import math

import pytest
import torch
from support.hosts import build, tokens
from test_published_counts import WIDE, check_start, constant, normal, uniform, zero

import vpeft
from vpeft.apis.testing.hosts.mmpretrain.vit import mm_vit
from vpeft.registry import PEFT_METHODS

#: Width, hidden width, blocks of the host.
C, H, L = 256, 512, 4


def xavier(rows, columns, gain=1.0):
    return uniform(gain * math.sqrt(6 / (rows + columns)))


def linear(inputs):
    """torch's start of a linear's weight and bias: both uniform in 1 / sqrt(inputs)."""
    return uniform(1 / math.sqrt(inputs))


def anything(x):
    assert torch.isfinite(x).all()


def identity_kernel(x):
    kernels = x.view(-1, 8, 8, 3, 3)
    assert torch.equal(kernels[..., 1, 1], torch.eye(8).expand(len(kernels), -1, -1))
    kernels = kernels.clone()
    kernels[..., 1, 1] = 0
    assert not kernels.any()


def parts(prefix, **checks):
    return {f"{prefix}.{name.replace('_', '.')}": check for name, check in checks.items()}


#: Of a tensor (1, 10, C), whose rows torch counts into the fan-in.
ROWS = uniform(math.sqrt(6 / (11 * C)))
LORAND = {"down.kernel": uniform(1 / math.sqrt(8))}
LORAND |= {"down.left": uniform(1 / math.sqrt(8)), "up.left": uniform(1 / math.sqrt(8))}
LORAND |= {"down.right": uniform(1 / math.sqrt(128)), "down.bias": uniform(1 / math.sqrt(C))}
PATT = {"down.weight": linear(C), "down.bias": linear(C)}
BRANCH = {"down.weight": xavier(8, C), "down.bias": zero, "up.weight": zero, "up.bias": zero}
ADAPTER = {"down.weight": linear(C), "down.bias": zero, "up.weight": zero, "up.bias": zero}
PLANAR = {"shift": zero, "log_scale": zero, "weight": uniform(0.01), "offset": uniform(0.01)}
STARTS = {
    "prefix": ({"type": "PrefixTuning"}, {"key": ROWS, "value": ROWS}),
    "prefix-reparametrised": (
        {"type": "PrefixTuning", "reparametrised": True, "hidden": 64},
        {"embedding.weight": normal(1.0), **parts("down", weight=linear(C), bias=linear(C))}
        | parts("up", weight=linear(64), bias=linear(64)),
    ),
    "patt": ({"type": "PATT", "hidden": 64}, {**PATT, "up.weight": linear(64), "up.bias": linear(64)}),
    "patt-identity": ({"type": "PATT", "hidden": 64, "init": "identity"}, {**PATT, "up.weight": zero, "up.bias": zero}),
    "repadapter": (
        {"type": "RepAdapter"},
        {"down.weight": xavier(8, C), "down.bias": zero, "qkv.weight": zero, "fc1.weight": zero}
        | {"qkv.bias": zero, "fc1.bias": zero},
    ),
    "hydra": (
        {"type": "Hydra", "rank": 8},
        {**{f"{p}.{k}": v for p in ("proj_parallel", "proj_sequential", "fc2_sequential") for k, v in BRANCH.items()}}
        | {**{f"fc2_parallel.{k}": v for k, v in BRANCH.items()}, "fc2_parallel.down.weight": xavier(8, H)},
    ),
    "fact-tt": (
        {"type": "FacT-TT", "rank": 16},
        {"shared0.down": linear(C), "shared0.up": zero, "fc2.weight": linear(2 * 16)}
        | {f"{p}.weight": linear(16) for p in ("qkv", "proj", "fc1")},
    ),
    "fact-tk": (
        {"type": "FacT-TK", "rank": 16},
        {"shared0.down": linear(C), "shared0.up": zero, "shared0.core": xavier(16 * 16, 16 * 16)}
        | {"shared0.third": xavier(16, 8 * L)},
    ),
    "krona": (
        {"type": "KronA"},
        {f"left.{t}": zero for t in "qv"} | {f"right.{t}": linear(C // 32) for t in "qv"},
    ),
    "kadaptation": (
        {"type": "KAdaptation"},
        {"shared.column": uniform(0.01), "shared.row": uniform(0.01), "left": normal(math.sqrt(2 / (8 + 1)))}
        | {"right": zero, "bias": zero},
    ),
    "kadaptation-official": (
        {"type": "KAdaptation", "init": "official"},
        {"shared.column": uniform(0.01), "shared.row": uniform(0.01), "left": zero, "right": zero, "bias": zero},
    ),
    "dora": (
        {"type": "DoRA", "targets": ["qkv"]},
        {"qkv.down.qkv": linear(C), "qkv.up.qkv": zero, "magnitude.qkv": anything},
    ),
    "mlae": (
        {"type": "MLAE", "targets": ["qkv"], "alpha": 3.0},
        {"down.qkv": linear(C), "up.qkv": zero, "weight.qkv": constant(3.0)},
    ),
    "lora": (
        {"type": "LoRA"},
        {f"{part}.{t}": rule for t in "qv" for part, rule in (("down", linear(C)), ("up", zero))},
    ),
    "loramul": (
        {"type": "LoRAmul", "rank": 60, "targets": ["qkv"]},
        {"qkv.down.qkv": xavier(60, C), "qkv.up.qkv": zero, "bias.qkv": zero}
        | {"prompt_down.qkv": xavier(60, 1), "prompt_up.qkv": zero},
    ),
    "vera": ({"type": "VeRA"}, {f"{v}.{t}": c for t in "qv" for v, c in (("d", constant(0.1)), ("b", zero))}),
    "adalora": (
        {"type": "AdaLoRA"},
        {f"{part}.{t}": normal(0.02) for part in ("left", "right") for t in "qv"} | {f"values.{t}": zero for t in "qv"},
    ),
    "consolidator": (
        {"type": "Consolidator"},
        {f"{part}.{t}": uniform(1e-3) for part in ("weight", "bias") for t in ("qkv", "proj", "fc1", "fc2")},
    ),
    "consolidator-identity": (
        {"type": "Consolidator", "init": "identity", "targets": ["fc1"]},
        {"weight.fc1": zero, "bias.fc1": zero},
    ),
    "snell": (
        {"type": "SNELL", "targets": ["proj"]},
        {f"{part}.proj": uniform(1 / math.sqrt(C * 16)) for part in ("inputs", "outputs")},
    ),
    "randlora": (
        {"type": "RandLoRA"},
        {f"left.{t}": constant(1 / 32) for t in "qv"} | {f"right.{t}": zero for t in "qv"},
    ),
    "randlora-peft": (
        {"type": "RandLoRA", "zero": "lambda"},
        {f"left.{t}": zero for t in "qv"} | {f"right.{t}": constant(1 / C) for t in "qv"},
    ),
    "ia3": ({"type": "IA3"}, {f"scale.{t}": constant(1.0) for t in ("k", "v", "ff")}),
    "rlrr": (
        {"type": "RLRR", "targets": ["qkv", "proj"]},
        {"column.qkv": uniform(math.sqrt(6 / C)), "column.proj": uniform(math.sqrt(6 / C)), "shift": zero}
        | {"row.qkv": uniform(math.sqrt(6)), "row.proj": uniform(math.sqrt(6))}
        | {"gamma": normal(0.02, 1.0), "beta": normal(0.02)},
    ),
    "rlrr-identity": (
        {"type": "RLRR", "init": "identity", "targets": ["proj"]},
        {
            "column.proj": uniform(math.sqrt(6 / C)),
            "row.proj": zero,
            "shift": zero,
            "gamma": constant(1.0),
            "beta": zero,
        },
    ),
    "loha": (
        {"type": "LoHa", "targets": ["qkv"]},
        {"down1.qkv": linear(C), "up1.qkv": linear(8), "up2.qkv": linear(8), "down2.qkv": zero},
    ),
    "lokr": (
        {"type": "LoKr", "targets": ["proj"], "rank": 4},
        {"left.proj": zero, "down.proj": linear(16), "up.proj": linear(4)},
    ),
    "fourierft": ({"type": "FourierFT"}, {f"values.{t}": normal(1.0) for t in "qv"}),
    "fourierft-identity": ({"type": "FourierFT", "init": "identity"}, {f"values.{t}": zero for t in "qv"}),
    "arc": (
        {"type": "ARC"},
        {f"{site}0.weight": xavier(C, 50) for site in ("qkv", "fc1")}
        | {"qkv.scale": zero, "fc1.scale": xavier(1, 50), "bias": zero},
    ),
    "arc-identity": (
        {"type": "ARC", "init": "identity"},
        {f"{site}0.weight": xavier(C, 50) for site in ("qkv", "fc1")} | {"scale": zero, "bias": zero},
    ),
    "convpass": ({"type": "Convpass"}, {**BRANCH, "conv.weight": identity_kernel, "conv.bias": zero}),
    "convpass-xavier": (
        {"type": "Convpass", "conv": "xavier"},
        {**BRANCH, "conv.weight": xavier(8 * 9, 8 * 9), "conv.bias": zero},
    ),
    "lorand": (
        {"type": "LoRand"},
        {**LORAND, "up.right": uniform(1 / math.sqrt(C)), "up.bias": uniform(1 / math.sqrt(C // 2))},
    ),
    "lorand-two-kernels": (
        {"type": "LoRand", "shared_kernel": False},
        {**LORAND, "up.kernel": LORAND["down.kernel"], "up.right": uniform(1 / math.sqrt(C))}
        | {"up.bias": uniform(1 / math.sqrt(C // 2))},
    ),
    "lorand-identity": ({"type": "LoRand", "init": "identity"}, {**LORAND, "up.right": zero, "up.bias": zero}),
    "e3va": ({"type": "E3VA"}, {**LORAND, "up.right": zero, "up.bias": zero}),
    "snf": ({"type": "SNF", "steps": 16}, {**PLANAR, "direction": uniform(0.01)}),
    "snf-identity": ({"type": "SNF", "steps": 16, "init": "identity"}, {**PLANAR, "direction": zero}),
    "sct": ({"type": "SCT"}, {"mix.x.weight": normal(0.02), "mix.x.bias": zero}),
    "sct-identity": ({"type": "SCT", "init": "identity"}, {"mix.x.weight": zero, "mix.x.bias": zero}),
    "dyt": (
        {"type": "DyT", "bottleneck": 32},
        {f"mlp.{k}": v for k, v in ADAPTER.items()} | {"score.weight": normal(0.02), "score.bias": zero},
    ),
    "adapter+": (
        {"type": "Adapter+", "bottleneck": 32, "norm": True},
        {**ADAPTER, **dict.fromkeys(("down.weight", "up.weight"), normal(0.01, cut=2)), "scale": constant(1.0)}
        | {"norm.weight": constant(1.0), "norm.bias": zero},
    ),
    "adapter+-lora": (
        {"type": "Adapter+", "bottleneck": 32, "init": "lora"},
        {**ADAPTER, "down.bias": linear(C), "scale": constant(1.0)},
    ),
    "adapter+-bert": (
        {"type": "Adapter+", "bottleneck": 32, "init": "bert"},
        {**ADAPTER, **dict.fromkeys(("down.weight", "up.weight"), normal(0.02)), "scale": constant(1.0)},
    ),
    "adapterbias": (
        {"type": "AdapterBias"},
        {"alpha.weight": linear(H), "alpha.bias": anything, "vector": zero},
    ),
    "colin": (
        {"type": "CoLin"},
        {**dict.fromkeys(("left", "right", "gains"), anything), "mix": zero}
        | {"down.bias": linear(C), "up.bias": linear(100), "conv.weight": uniform(1 / 3), "conv.bias": uniform(1 / 3)},
    ),
    "bapat": (
        {"type": "BAPAT", "hidden": 64, "bottleneck": 32},
        {f"patt.{k}": v for k, v in {**PATT, "up.weight": linear(64), "up.bias": linear(64)}.items()}
        | {f"mlp.{k}": v for k, v in ADAPTER.items()},
    ),
    "gps": ({"type": "GPS"}, {"delta": zero}),
    "difffit": ({"type": "DiffFit"}, {"attn.weight": constant(1.0), "mlp.weight": constant(1.0)}),
    "glora": (
        {"type": "GLoRA"},
        {f"down.{p}": zero for p in "ABC"}
        | {f"shift.{p}": zero for p in "DE"}
        | {"up.C": xavier(4, 1)}
        | {"proj.up.A": xavier(4, C), "qkv.up.A": xavier(4, C), "fc1.up.A": xavier(4, C), "fc2.up.A": xavier(4, H)}
        | {"proj.up.B": xavier(4, C), "qkv.up.B": xavier(4, C), "fc1.up.B": xavier(4, C), "fc2.up.B": xavier(4, H)},
    ),
    "spt": ({"type": "SPT-LoRA"}, {"values": zero}),
    "u-prefix": ({"type": "UTuning"}, {"key": ROWS, "value": ROWS}),
    "u-prompt": ({"type": "UTuning", "kind": "prompt"}, {"prompt": ROWS}),
    "u-adapter": ({"type": "UTuning", "kind": "adapter"}, {"down.weight": xavier(10, C), "up.weight": zero}),
    "noah": (
        {"type": "NOAH", "prompts": 10, "ranks": 10, "widths": 10},
        {"prompt.weight": uniform(math.sqrt(6 / (101 * C))), "lora.down": normal(0.02), "lora.up": normal(0.02)}
        | {"adapter.down.weight": normal(0.02), "adapter.up.weight": normal(0.02)}
        | {"adapter.down.bias": zero, "adapter.up.bias": zero},
    ),
    "noah-paper": (
        {"type": "NOAH", "prompts": 10, "ranks": 10, "widths": 10, "init": "paper"},
        {"prompt.weight": xavier(10, C), "lora.down": linear(C), "lora.up": zero}
        | {"adapter.down.weight": xavier(10, C), "adapter.up.weight": xavier(10, C)}
        | {"adapter.down.bias": normal(1e-6), "adapter.up.bias": normal(1e-6)},
    ),
    "dtl": ({"type": "DTL"}, {"down": linear(C), "up": zero}),
    "dtl-plus": ({"type": "DTL+"}, {"down": linear(C), "up": zero, "conv0.weight": uniform(1 / 3)}),
    "last": (
        {"type": "LAST"},
        {"norm.weight": constant(1.0), "norm.bias": zero, "qkv.weight": linear(C), "qkv.bias": linear(C)}
        | {"out.weight": zero, "out.bias": zero},
    ),
}


@pytest.mark.parametrize(("start", "initialise"), itertools.product(STARTS, (False, True)))
def test_start(start, initialise):
    torch.manual_seed(3)
    check_start(*STARTS[start], initialise)


@pytest.mark.parametrize(
    "config",
    [
        *(
            {"type": name, "init": "identity"}
            for name in ("PATT", "BAPAT", "ARC", "LoRand", "SNF", "SSF", "SCT", "Mona", "FourierFT", "RLRR")
        ),
        {"type": "Adapter+", "init": "lora", "position": "houlsby"},
        {"type": "UTuning", "kind": "adapter"},
        {"type": "DTL", "read_out": "host"},
        {"type": "E3VA", "train_norms": True},
    ],
    ids=lambda c: c["type"],
)
def test_identity_is_an_option(config):
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    model = build("mmpretrain.VisionTransformer")
    out = tokens(model, x)
    vpeft.attach(model, config)
    assert torch.equal(tokens(model, x), out)


def test_every_init_option_is_one_of_those_above():
    tried = {config["type"] for config, _ in STARTS.values() if "init" in config}
    own = {n for n, cls in PEFT_METHODS.module_dict.items() if "init" in getattr(cls, "__dataclass_fields__", {})}
    # Those of the first twelve stand in test_published_counts.
    assert own - tried == {"HoulsbyAdapter", "PfeifferAdapter", "SSF", "Mona", "BAPAT", "LST"}


def test_the_ladder_starts_as_a_cut_down_backbone():
    """Side block rows and columns are those of the host on the channels with the largest weights."""
    model = mm_vit(arch=WIDE)
    vpeft.attach(model, {"type": "LST", "reduction": 8})
    state = model.state_dict()
    strength = sum(
        state[f"layers.{i}.{name}.weight"].abs().sum(side)
        for i in range(L)
        for name, side in (("attn.qkv", 0), ("attn.proj", 1), ("ffn.layers.0.0", 0), ("ffn.layers.1", 1))
    )
    channels = strength.argsort(descending=True)[: C // 8].sort().values
    ladder = "peft.lst.ladder"
    for i in range(L):
        fc1, fc2 = state[f"layers.{i}.ffn.layers.0.0.weight"], state[f"layers.{i}.ffn.layers.1.weight"]
        hidden = (fc1.abs().sum(1) + fc2.abs().sum(0)).argsort(descending=True)[: C // 2].sort().values
        assert torch.equal(state[f"{ladder}.blocks.{i}.mlp.fc1.weight"], fc1[hidden][:, channels])
        assert torch.equal(state[f"{ladder}.blocks.{i}.mlp.fc2.weight"], fc2[channels][:, hidden])
        qkv, proj = state[f"layers.{i}.attn.qkv.weight"].view(3, C, C), state[f"layers.{i}.attn.proj.weight"]
        heads = model.layers[i].attn.num_heads
        q, k, v = qkv.abs().sum(2).view(3, heads, -1)
        inner = [
            torch.cat(
                [one.argsort(descending=True)[: C // 8 // heads].sort().values + h * C // heads for h, one in rows]
            )
            for rows in map(enumerate, (q + k, q + k, v + proj.abs().sum(0).view(heads, -1)))
        ]
        expected = torch.cat([part[rows][:, channels] for part, rows in zip(qkv, inner, strict=True)])
        assert torch.equal(state[f"{ladder}.blocks.{i}.attn.qkv.weight"], expected)
        assert torch.equal(state[f"{ladder}.blocks.{i}.attn.proj.weight"], proj[channels][:, inner[2]])
    assert not state[f"{ladder}.gate"].any()
    random = vpeft.attach(mm_vit(arch=WIDE), {"type": "LST", "init": "random"}).state_dict()
    uniform(1 / math.sqrt(C // 8))(random[f"{ladder}.blocks.0.mlp.fc1.weight"])


def test_the_pyramid_starts_as_its_authors_say():
    state = vpeft.attach(mm_vit(arch=WIDE), "HST").state_dict()
    network = "peft.hst.network.stages"
    normal(0.02)(state[f"{network}.2.blocks.0.mlp.0.weight"])
    zero(state[f"{network}.2.blocks.0.mlp.0.bias"])
    normal(math.sqrt(2 / (9 * 48)))(state[f"{network}.1.conv.weight"])
    xavier(C, C)(torch.cat([state[f"layers.{i}.peft.hst.meta.weight"] for i in range(L)]))
    constant(1.0)(state[f"{network}.0.norm_in.weight"])
