"""Figures that the papers and the authors' code state: parameter counts, starts, defaults."""

import itertools
import math
from pathlib import Path

import pytest
import torch

import vpeft
from vpeft.apis.catalogue import config_parameters
from vpeft.apis.config.load import load_config
from vpeft.apis.testing.hosts.mmpretrain.swin import mm_swin
from vpeft.apis.testing.hosts.mmpretrain.vit import mm_vit
from vpeft.registry import PEFT_METHODS

ROOT = Path(__file__).parents[2]

#: Config, options of its method, options of its backbone, trained parameters without the head.
COUNTS = [
    ("lora_vit", {"rank": 8}, {}, 294_912),
    ("dora_vit", {"rank": 8}, {}, 313_344),
    ("lora_fa_vit", {"rank": 8}, {}, 147_456),
    ("mlae_vit", {"rank": 8}, {}, 295_104),
    ("glora_vit", {"rank": 4}, {}, 1_603_776),
    ("glora_vit", {"paths": ["nnnvn"]}, {}, 82_944),
    ("spt_lora_vit", {"budget": 0.43}, {}, 430_000),
    ("spt_adapter_vit", {"budget": None}, {}, 426_048),
    ("vera_vit", {"rank": 256}, {}, 24_576),
    ("fourierft_vit", {"frequencies": 3000}, {}, 72_000),
    ("ia3_vit", {}, {}, 55_296),
    ("loramul_vit", {"rank": 4}, {}, 931_008),
    ("loramul_vit", {"rank": 10}, {}, 2_203_104),
    ("rlrr_vit", {}, {}, 288_768),  # 31 C a block, and 4 C around them
    ("randlora_vit", {"rank": 32}, {}, 24 * 24 * (32 + 768)),
    ("adalora_vit", {"rank": 12}, {}, 24 * 12 * (768 + 768 + 1)),
    ("consolidator_vit", {"groups": 384}, {}, 221_184 + 82_944),
    ("consolidator_vit", {"groups": None}, {}, 304_128),
    # The factors, as stored; the paper's counts are of entries that are not zero.
    ("snell_vit", {"rank": 32}, {}, 12 * 32 * (4 * 1536 + 2 * 3840)),
    ("oft_vit", {"block": 32}, {}, 24 * 24 * 496),
    ("boft_vit", {"block": 8, "factors": 2}, {}, 24 * (2 * 96 * 28 + 768)),
    ("adaptformer_vit", {"bottleneck": 8}, {}, 156_768),
    ("adapterplus_vit", {"bottleneck": 8}, {}, 165_984),
    ("adapterplus_vit", {"bottleneck": 16}, {}, 313_536),
    ("adapterbias_vit", {}, {}, 46_092),
    ("adapterbias_vit", {"reads": "output"}, {}, 18_444),
    ("adapterbias_vit", {"shared_alpha": True}, {}, 12_289),
    ("sidetuning_vit", {}, {}, 216 * 64**2 + 212 * 64 + 64 * 768 + 1),
    ("pfeiffer_vit", {"bottleneck": 8}, {}, 156_768),
    ("houlsby_vit", {"bottleneck": 8}, {}, 313_536),
    ("bitfit_vit", {}, {}, 102_912),
    ("lntune_vit", {}, {}, 38_400),
    ("ssf_vit", {}, {}, 205_824),
    ("vptshallow_vit", {"prompt_length": 100}, {}, 76_800),
    ("vptdeep_vit", {"prompt_length": 10}, {}, 92_160),
    ("vfpt_vit", {"prompt_length": 10}, {}, 92_160),
    ("e2vpt_vit", {}, {}, 92_160 + 85),
    ("vqt_vit", {"prompt_length": 10}, {}, 92_160),
    ("cvpt_vit", {"prompt_length": 10}, {}, 92_160),
    ("vp_vit", {}, {}, 69_840),
    ("evp_swin", {}, {}, 69_840),
    ("mona_vit", {"bottleneck": 64}, {}, 2_684_928),
    ("linear_vit", {}, {}, 0),
    ("lntune_swin", {}, {}, 57_600),
    ("lntune_swin", {}, {"out_indices": [0, 1, 2, 3]}, 59_392),
    ("mona_swin", {"bottleneck": 64}, {}, 3_667_456),
    ("bitfit_swin", {}, {}, 200_760),
    ("ssf_swin", {}, {}, 274_432),
    ("ssf_swin", {"official_merging": True}, {}, 267_264),
    ("houlsby_swin", {"bottleneck": 64}, {}, 3_107_328),
    ("adaptformer_swin", {"bottleneck": 64}, {}, 1_553_664),
    ("lora_swin", {"rank": 64}, {}, 3_080_192),
]


@pytest.mark.parametrize(("config", "method", "backbone", "count"), COUNTS)
def test_published_count(config, method, backbone, count):
    options = {f"model.backbone.method.{k}": v for k, v in method.items()}
    options |= {f"model.backbone.{k}": v for k, v in backbone.items()}
    report = config_parameters(load_config(ROOT / f"configs/vtab/{config}.py", options=options))
    assert report.trainable_without_head == count


def test_bitfit_of_swin_without_tables():
    """The 12 032 x 11 biases of the blocks, those around them, and no table."""
    tables = (2 * 7 - 1) ** 2 * (2 * 4 + 2 * 8 + 18 * 16 + 2 * 32)
    path = ROOT / "configs/vtab/bitfit_swin.py"
    report = config_parameters(load_config(path, options={"model.backbone.method.include_rel_pos_bias": False}))
    assert report.trainable_without_head == 200_760 - tables


# The start ----------------------------------------------------------------------------------------------------------

WIDE = {"embed_dims": 256, "num_layers": 4, "num_heads": 4, "feedforward_channels": 512}


def zero(x):
    assert not x.any()


def constant(value):
    def check(x):
        assert torch.equal(x, torch.full_like(x, value))

    return check


def uniform(bound):
    def check(x):
        assert x.abs().max() <= bound * (1 + 1e-6)
        assert x.abs().max() > 0.95 * bound
        assert abs(x.mean()) < 5 * bound / math.sqrt(3 * x.numel())
        assert abs(x.std() * math.sqrt(3) / bound - 1) < 5 / math.sqrt(x.numel())

    return check


def normal(std, mean=0.0, cut=None):
    """Normal; ``cut`` truncates at as many standard deviations (at 2 the rest has 0.8796 of the spread)."""

    def check(x):
        spread = std * (0.8796 if cut == 2 else 1.0)
        assert abs(x.mean() - mean) < 5 * spread / math.sqrt(x.numel())
        assert abs(x.std() / spread - 1) < 5 / math.sqrt(x.numel())
        assert bool((x - mean).abs().max() <= 2 * std * (1 + 1e-5)) == (cut == 2)

    return check


def bottleneck(down, up, bias_down=zero, bias_up=zero):
    return {"down.weight": down, "up.weight": up, "down.bias": bias_down, "up.bias": bias_up}


IDENTITY = bottleneck(uniform(1 / math.sqrt(256)), zero)  # Kaiming with a = sqrt 5: bound 1 / sqrt(fan in)
XAVIER = uniform(math.sqrt(6 / (256 + 32)))
PROMPTS = {"prompts.weight": uniform(math.sqrt(6 / (3 * 8 * 8 + 256)))}
CONVS = {f"depthwise.{j}.{p}": uniform(1 / k) for j, k in enumerate((3, 5, 7)) for p in ("weight", "bias")}
CONVS |= {f"pointwise.{p}": uniform(1 / math.sqrt(64)) for p in ("weight", "bias")}
MONA = {"gamma1": constant(1e-6), "gamma2": constant(1.0), "norm.weight": constant(1.0), "norm.bias": zero, **CONVS}
STARTS = {
    "houlsby": ({"type": "HoulsbyAdapter", "bottleneck": 32}, IDENTITY),
    "pfeiffer": ({"type": "PfeifferAdapter", "bottleneck": 32}, IDENTITY),
    "houlsby-original": (
        {"type": "HoulsbyAdapter", "bottleneck": 32, "init": "houlsby"},
        bottleneck(normal(1e-3, cut=2), normal(1e-3, cut=2)),
    ),
    "pfeiffer-xavier": (
        {"type": "PfeifferAdapter", "bottleneck": 32, "init": "xavier"},
        bottleneck(XAVIER, XAVIER, normal(1e-6), normal(1e-6)),
    ),
    "adaptformer": ({"type": "AdaptFormer", "bottleneck": 32}, IDENTITY),
    "mona": ({"type": "Mona"}, MONA | bottleneck(normal(0.02), normal(0.02))),
    "lora": (
        {"type": "LoRA", "rank": 16, "targets": ["q", "v", "fc1"]},
        {f"down.{t}": uniform(1 / math.sqrt(256)) for t in ("q", "v", "fc1")}
        | {f"up.{t}": zero for t in ("q", "v", "fc1")},
    ),
    "ssf": ({"type": "SSF"}, {"gamma": normal(0.02, 1.0), "beta": normal(0.02)}),
    "ssf-identity": ({"type": "SSF", "init": "identity"}, {"gamma": constant(1.0), "beta": zero}),
    "vpt-shallow": ({"type": "VPTShallow"}, PROMPTS),
    "vpt-deep": ({"type": "VPTDeep"}, PROMPTS),
    "vfpt": ({"type": "VFPT"}, PROMPTS),
    "vp": ({"type": "VP", "pad": 8}, {f"frame.{band}": normal(1.0) for band in ("top", "bottom", "left", "right")}),
    "evp": ({"type": "EVP"}, {f"border.{band}": zero for band in ("top", "bottom", "left", "right")}),
    "cvpt": ({"type": "CVPT"}, {"prompts.weight": uniform(math.sqrt(6 / (256 * (10 + 4))))}),
    "vqt": ({"type": "VQT", "prompt_length": 5}, {"queries.weight": PROMPTS["prompts.weight"]}),
    "e2vpt": (
        {"type": "E2VPT"},
        {**PROMPTS, "rows.weight": uniform(math.sqrt(6 / (5 * 64)))}
        | {"masks.tokens": constant(1.0), "masks.pieces": constant(1.0)},
    ),
}


def check_start(config, checks, initialise):
    """Every tensor of a method on the wide ViT, also after ``init_weights``, which must not overwrite it."""
    model = mm_vit(arch=WIDE)
    vpeft.attach(model, config)
    if initialise:
        model.init_weights()
    own = {k: p.detach() for k, p in model.named_parameters() if "peft." in k}
    seen = set()
    for suffix, check in checks.items():
        keys = {k for k in own if k.endswith(f".{suffix}")}
        assert keys, suffix
        check(torch.cat([own[k].flatten() for k in sorted(keys)]))
        seen |= keys
    assert seen == own.keys()


@pytest.mark.parametrize(("start", "initialise"), itertools.product(STARTS, (False, True)))
def test_start(start, initialise):
    check_start(*STARTS[start], initialise)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("HoulsbyAdapter", {"scale": 1.0, "act": "gelu", "init": "identity"}),
        ("PfeifferAdapter", {"bottleneck": 8, "scale": 1.0, "act": "gelu"}),
        ("AdaptFormer", {"bottleneck": 64, "scale": 0.1, "drop": 0.1}),
        ("Mona", {"bottleneck": 64, "drop": 0.1}),
        ("LoRA", {"rank": 8, "alpha": None, "targets": None}),
        ("SSF", {"init": "official"}),
        ("VPTShallow", {"drop": 0.0}),
        ("VPTDeep", {"drop": 0.0}),
        ("BitFit", {"include_rel_pos_bias": True}),
    ],
)
def test_defaults_are_the_published_ones(name, options):
    config = PEFT_METHODS.get(name)()
    assert {k: getattr(config, k) for k in options} == options


@pytest.mark.parametrize("name", ["VPTShallow", "VPTDeep"])
def test_start_of_prompts_in_swin(name):
    """The authors draw the prompts of all stages from one bound, that of the patch embedding's width."""
    model = mm_swin()
    vpeft.attach(model, name)
    for key, param in model.named_parameters():
        if "peft." in key:
            uniform(math.sqrt(6 / (3 * 2 * 2 + 64)))(param.detach())
