"""Methods that HuggingFace's peft has too compute the same there with the same tensors."""

import importlib

import pytest
import torch
from support.hosts import perturb

import vpeft

peft = pytest.importorskip("peft")
timm = pytest.importorskip("timm")

#: Modules of timm's ViT by site.
MODULES = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}


def network():
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 3}
    model = timm.models.VisionTransformer(**sizes, fc_norm=False)
    torch.nn.init.normal_(model.head.weight)
    return model.eval()


@torch.no_grad()
def answer(model):
    return model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))


LORA = {"lora_A.default.weight": "{s}.down.{s}", "lora_B.default.weight": "{s}.up.{s}"}
DORA = {**LORA, "lora_magnitude_vector.default.weight": "{s}_magnitude.magnitude.{s}"}
VERA = {"vera_lambda_b.default": "{s}.b.{s}", "vera_lambda_d.default": "{s}.d.{s}"}
LOHA = {
    f"hada_w{i}_{part}.default": f"{{s}}.{name}{i}.{{s}}" for i in (1, 2) for part, name in (("a", "up"), ("b", "down"))
}
LOKR = {"lokr_w1.default": "{s}.left.{s}", "lokr_w2_a.default": "{s}.up.{s}", "lokr_w2_b.default": "{s}.down.{s}"}
BOTH, RANK = ("qkv", "proj"), {"rank": 4, "alpha": 3.0}
THEIRS = {"r": 4, "lora_alpha": 3, "target_modules": ["qkv", "attn.proj"]}
#: Our method, the sites it is at, their config, and our keys by theirs ({s} is the site).
CASES = {
    "rslora": ({"type": "rsLoRA", **RANK}, BOTH, ("LoraConfig", {**THEIRS, "use_rslora": True}), LORA),
    "dora": ({"type": "DoRA", **RANK}, BOTH, ("LoraConfig", {**THEIRS, "use_dora": True}), DORA),
    "pissa": ({"type": "PiSSA", **RANK}, BOTH, ("LoraConfig", {**THEIRS, "init_lora_weights": "pissa"}), LORA),
    "olora": ({"type": "OLoRA", **RANK}, BOTH, ("LoraConfig", {**THEIRS, "init_lora_weights": "olora"}), LORA),
    "vera": ({"type": "VeRA", "rank": 4}, BOTH, ("VeraConfig", {"r": 4, "target_modules": ["qkv", "attn.proj"]}), VERA),
    "ia3": (
        {"type": "IA3"},
        ("qkv", "fc2"),
        ("IA3Config", {"target_modules": ["qkv", "fc2"], "feedforward_modules": ["fc2"]}),
        {"ia3_l.default": "{s}.scale"},
    ),
    "loha": (
        {"type": "LoHa", **RANK},
        BOTH,
        ("LoHaConfig", {"r": 4, "alpha": 3, "target_modules": ["qkv", "attn.proj"]}),
        LOHA,
    ),
    "lokr": (
        {"type": "LoKr", "rank": 2, "alpha": 3.0},
        BOTH,
        ("LoKrConfig", {"r": 2, "alpha": 3, "target_modules": ["qkv", "attn.proj"]}),
        LOKR,
    ),
    "fourierft": (
        {"type": "FourierFT", "frequencies": 100, "scale": 20.0},
        BOTH,
        ("FourierFTConfig", {"n_frequency": 100, "scaling": 20.0, "target_modules": ["qkv", "attn.proj"]}),
        {"fourierft_spectrum.default": "{s}.values.{s}"},
    ),
    "oft": (
        {"type": "OFT", "block": 16},
        BOTH,
        ("OFTConfig", {"oft_block_size": 16, "use_cayley_neumann": False, "target_modules": ["qkv", "attn.proj"]}),
        {"oft_R.default.weight": "{s}.skew.{s}"},
    ),
    "oft-series": (
        {"type": "OFT", "block": 8, "shared": True, "terms": 5},
        BOTH,
        ("OFTConfig", {"oft_block_size": 8, "block_share": True, "target_modules": ["qkv", "attn.proj"]}),
        {"oft_R.default.weight": "{s}.skew.{s}"},
    ),
    "randlora": (
        {"type": "RandLoRA", "rank": 20, "alpha": 30.0},
        BOTH,
        ("RandLoraConfig", {"r": 20, "randlora_alpha": 30, "target_modules": ["qkv", "attn.proj"]}),
        {"randlora_lambda.default": "{s}.left.{s}", "randlora_gamma.default": "{s}.right.{s}"},
    ),
    "adalora": (
        {"type": "AdaLoRA", "rank": 4, "target_rank": 2, "alpha": 3.0},
        BOTH,
        ("AdaLoraConfig", {"init_r": 4, "lora_alpha": 3, "total_step": 9, "target_modules": ["qkv", "attn.proj"]}),
        {"lora_A.default": "{s}.right.{s}", "lora_B.default": "{s}.left.{s}", "lora_E.default": "{s}.values.{s}"},
    ),
    "boft": (
        {"type": "BOFT", "block": 6, "factors": 3},
        BOTH,
        ("BOFTConfig", {"boft_block_size": 6, "boft_n_butterfly_factor": 3, "target_modules": ["qkv", "attn.proj"]}),
        {"boft_R.default": "{s}.skew.{s}", "boft_s.default": "{s}.scale.{s}"},
    ),
}


def both(case):
    method, sites, (config, options), keys = CASES[case]
    ours = network()
    chosen = {} if case == "ia3" else {"targets": list(sites)}
    vpeft.attach(ours, {**method, **chosen})
    torch.manual_seed(2)
    theirs = peft.get_peft_model(network(), getattr(peft, config)(**options)).eval()
    return ours, theirs, keys, sites


@torch.no_grad()
def hand_over(ours, theirs, keys, sites):
    """Our tensors into their modules; every one of theirs that is trained gets one."""
    state, given = ours.state_dict(), set()
    key = next(name for name in state if ".peft." in name).split(".peft.")[1].split(".")[0]
    own, network = dict(theirs.named_parameters()), "base_model.model"
    for i in range(2):
        for site in sites:
            for name, template in keys.items():
                prefix = f"blocks.{i}.peft.{key}.{template.format(s=site)}"
                value = state[prefix] if prefix in state else scales(state, prefix)
                value = THEIR_FORM.get((key, name.split(".")[0]), lambda value, theirs: value)(value, theirs)
                param = own[f"{network}.blocks.{i}.{MODULES[site]}.{name}"]
                param.copy_(value.reshape(param.shape))
                given.add(f"{network}.blocks.{i}.{MODULES[site]}.{name}")
    assert given == {name for name, param in own.items() if param.requires_grad}
    for name in ("weight", "bias"):  # ours is trained, theirs is a part of the base
        own[f"{network}.head.{name}"].copy_(state[f"head.{name}"])
    if "peft.vera.shared.down" in state:
        theirs.base_model.vera_A["default"].copy_(state["peft.vera.shared.down"])
        theirs.base_model.vera_B["default"].copy_(state["peft.vera.shared.up"])
    if "peft.randlora.shared.down" in state:
        theirs.base_model.randlora_A["default"].copy_(state["peft.randlora.shared.down"][:, None])
        # Theirs go base by base along the columns of B, and rank by rank along the rows of A.
        up = state["peft.randlora.shared.up"].permute(1, 2, 0)
        theirs.base_model.randlora_B["default"].copy_(up.reshape(len(up), up.shape[2], up.shape[1]))


def of_other_sign(values, theirs):
    """Where peft inverts, it has the transform of -Q."""
    return values if theirs.peft_config["default"].use_cayley_neumann else -values


def whole_blocks(values, theirs):
    """All of -Q, where ours is what stands above its diagonal."""
    size = theirs.peft_config["default"].boft_block_size
    rows, columns = torch.triu_indices(size, size, 1)
    upper = values.new_zeros(*values.shape[:2], size, size)
    upper[..., rows, columns] = values
    return upper.mT - upper


#: What becomes of our tensors on the way, by our method's key and the name of theirs.
THEIR_FORM = {
    ("oft", "oft_R"): of_other_sign,
    ("boft", "boft_R"): whole_blocks,
    ("randlora", "randlora_lambda"): lambda values, theirs: values.t(),
}


@pytest.fixture(autouse=True)
def _several_factors_without_cuda(monkeypatch):
    """BOFT of peft has one factor where its CUDA extension is not there; of that it needs block-diagonal matrices."""
    layer = importlib.import_module("peft.tuners.boft.layer")
    monkeypatch.setattr(layer, "get_fbd_cuda", lambda: True)
    apply = staticmethod(lambda factors: torch.stack([torch.block_diag(*blocks) for blocks in factors]))
    monkeypatch.setattr(layer, "FastBlockDiag", type("FastBlockDiag", (), {"apply": apply}))


def scales(state, prefix):
    """(IA)3 of ours has no scale of the queries."""
    if f"{prefix}.ff" in state:
        return state[f"{prefix}.ff"]
    return torch.cat([torch.ones_like(state[f"{prefix}.k"]), state[f"{prefix}.k"], state[f"{prefix}.v"]])


@pytest.mark.parametrize("case", CASES)
def test_the_same_tensors_give_the_same_answers(case):
    ours, theirs, keys, sites = both(case)
    start = answer(network())
    if case != "fourierft":
        torch.testing.assert_close(answer(theirs), start, rtol=1e-4, atol=1e-4)
    perturb(ours)
    hand_over(ours, theirs, keys, sites)
    want = answer(ours)
    assert (want - start).abs().max() > 0.01
    torch.testing.assert_close(answer(theirs), want, rtol=1e-4, atol=1e-4)
    merged = theirs.merge_and_unload().state_dict()
    vpeft.merge(ours)
    for key, value in vpeft.plain_state_dict(ours).items():
        torch.testing.assert_close(value, merged[key], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["pissa", "olora", "fourierft"])
def test_the_start_is_theirs(case):
    ours, theirs, *_ = both(case)
    for i in range(2):
        module, own = theirs.base_model.model.blocks[i].attn.qkv, getattr(ours.blocks[i].peft, case).qkv
        if case == "fourierft":
            u, v = module.indices["default"]
            assert torch.equal(u * 48 + v, own.places("qkv"))
            continue
        product = module.lora_B["default"].weight @ module.lora_A["default"].weight
        torch.testing.assert_close(own.up["qkv"] @ own.down["qkv"], product, rtol=1e-4, atol=1e-5)
        residual = module.base_layer.weight + 0.75 * product
        torch.testing.assert_close(residual, ours.blocks[i].attn.qkv.weight, rtol=1e-4, atol=1e-5)
