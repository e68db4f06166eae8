"""Every method's equation on mmpretrain's ViT, re-stated in plain torch functions over ``state_dict()``.

Nothing of the package but ``attach`` takes part in the re-statement.
"""

import pytest
import torch
import torch.nn.functional as F
from support import (
    plain_adapters,
    plain_attention,
    plain_bottleneck,
    plain_glora,
    plain_low_rank,
    plain_prompts,
    plain_reparameter,
    plain_scaling,
    plain_side,
    plain_spt,
    plain_updates,
    plain_vit_adapter,
)
from support.design import ON_IMAGES
from support.hosts import build, perturb, tokens
from support.plain_vit import HOST, MAP, SIZE, PlainViT, images, standardised

import vpeft

ALMOST_ONE = 1 - 1e-9


class PlainPfeiffer(PlainViT):
    """``x + A(MLP(LN2 x))`` with ``A(y) = y + s (W_up act(W_dn y + b_dn) + b_up)``, inside DropPath."""

    name = "pfeifferadapter"

    def bottleneck(self, i, place, x, act):
        key = f"layers.{i}.peft.{self.name}.{place}"
        return self.linear(f"{key}.up", act(self.linear(f"{key}.down", x)))

    def adapter(self, i, place, y):
        act = {"gelu": F.gelu, "relu": F.relu}[self.options["act"]]
        return y + self.options["scale"] * self.bottleneck(i, place, y, act)

    def mlp(self, i, x):
        return self.adapter(i, "mlp", super().mlp(i, x))


class PlainHoulsby(PlainPfeiffer):
    """The same after attention too."""

    name = "houlsbyadapter"

    def attention(self, i, x):
        return self.adapter(i, "attn", super().attention(i, x))


class PlainAdaptFormer(PlainPfeiffer):
    """``x + DP(MLP(LN2 x)) + s (W_up relu(W_dn x + b_dn) + b_up)``, x before LN2."""

    name = "adaptformer"
    mlp = PlainViT.mlp

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        out = x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        return out + self.options["scale"] * self.bottleneck(i, "mlp", x, F.relu)


class PlainMona(PlainViT):
    """On the stream after each residual addition; the class token skips the convolutions."""

    def module(self, key, x):
        s = self.state
        normed = standardised(x, 1e-5) * s[f"{key}.norm.weight"] + s[f"{key}.norm.bias"]
        y = s[f"{key}.gamma1"] * normed + s[f"{key}.gamma2"] * x
        d = self.linear(f"{key}.down", y)
        e = torch.cat([d[:, :1], self.filter(key, d[:, 1:], MAP)], 1)
        return x + self.linear(f"{key}.up", F.gelu(e))

    def filter(self, key, d, hw):
        d = d.mT.unflatten(2, hw)
        convs = []
        for j, k in enumerate((3, 5, 7)):
            weight, bias = self.weight(f"{key}.depthwise.{j}"), self.state[f"{key}.depthwise.{j}.bias"]
            convs.append(F.conv2d(d, weight, bias, padding=k // 2, groups=d.shape[1]))
        e = d + sum(convs) / 3
        e = e + F.conv2d(e, self.weight(f"{key}.pointwise"), self.state[f"{key}.pointwise.bias"])
        return e.flatten(2).mT

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        x = self.module(f"layers.{i}.peft.mona.attn", x)
        x = x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        return self.module(f"layers.{i}.peft.mona.mlp", x)


def lora_weight(state, weight, key, targets, scale):
    """``W + scale B A`` on the rows of each target; q, k and v are the thirds of the fused matrix."""
    weight = weight.clone()
    for target in targets:
        update = scale * state[f"{key}.up.{target}"] @ state[f"{key}.down.{target}"]
        if target in ("q", "k", "v"):
            first = "qkv".index(target) * update.shape[0]
            weight[first : first + update.shape[0]] += update
        else:
            weight += update
    return weight


class PlainLoRA(PlainViT):
    """``W <- W0 + (alpha / r) B A``."""

    sites = {"attn.qkv": "qkv", "attn.proj": "proj", "ffn.layers.0.0": "fc1", "ffn.layers.1": "fc2"}

    def weight(self, key):
        weight = super().weight(key)
        if not key.startswith("layers."):
            return weight
        _, i, linear = key.split(".", 2)
        site = self.sites.get(linear)
        targets = [t for t in self.options["targets"] if t == site or (site == "qkv" and t in ("q", "k", "v"))]
        scale = (self.options["alpha"] or self.options["rank"]) / self.options["rank"]
        return lora_weight(self.state, weight, f"layers.{i}.peft.lora.{site}", targets, scale)


class PlainSSF(PlainViT):
    """``gamma * y + beta`` after the patch embedding, every norm and every linear."""

    sites = {"ln1": "norm1", "ln2": "norm2", **PlainLoRA.sites}

    def scaled(self, key, y):
        if key.startswith("layers."):
            _, i, rest = key.split(".", 2)
            key = f"layers.{i}.peft.ssf.{self.sites[rest]}"
        else:
            key = "peft.ssf." + {"patch_embed.projection": "patch_embed", "ln1": "norm_0"}[key]
        return self.state[f"{key}.gamma"] * y + self.state[f"{key}.beta"]

    def patches(self, x):
        return self.scaled("patch_embed.projection", super().patches(x))

    def linear(self, key, x):
        return self.scaled(key, super().linear(key, x))

    def norm(self, key, x):
        return self.scaled(key, super().norm(key, x))


class PlainVPTShallow(PlainViT):
    """``[CLS; P; patches]`` through all blocks; the prompts leave before the output."""

    def with_prompts(self, i, name, x):
        prompts = self.weight(f"layers.{i}.peft.{name}.prompts").expand(x.shape[0], -1, -1)
        return torch.cat([x[:, :1], prompts, x[:, 1:]], 1)

    def without_prompts(self, x):
        return torch.cat([x[:, :1], x[:, 1 + self.options["prompt_length"] :]], 1)

    def encode(self, x):
        return self.without_prompts(super().encode(self.with_prompts(0, "vptshallow", x)))


class PlainVPTDeep(PlainVPTShallow):
    """Fresh prompts in every block."""

    encode = PlainViT.encode

    def block(self, i, x):
        return self.without_prompts(super().block(i, self.with_prompts(i, "vptdeep", x)))


LINEARS = ("attn.qkv", "attn.proj", "ffn.layers.0.0", "ffn.layers.1")
ADAPTER = {"bottleneck": 8, "scale": 0.7, "act": "gelu"}
ALL = ("q", "k", "v", "proj", "fc1", "fc2")
#: Method, its options, its re-statement, and whether DropPath acts in training.
CASES = {
    "full": ("Full", {}, PlainViT, True),
    "linear": ("Linear", {}, PlainViT, False),
    "bitfit": ("BitFit", {}, PlainViT, True),
    "lntune": ("LNTune", {}, PlainViT, True),
    "houlsby": ("HoulsbyAdapter", ADAPTER, PlainHoulsby, True),
    "houlsby-relu": ("HoulsbyAdapter", {**ADAPTER, "act": "relu"}, PlainHoulsby, True),
    "pfeiffer": ("PfeifferAdapter", ADAPTER, PlainPfeiffer, True),
    "adaptformer": ("AdaptFormer", {"bottleneck": 8, "scale": 0.3, "drop": 0.0}, PlainAdaptFormer, True),
    "mona": ("Mona", {"bottleneck": 16, "drop": 0.0}, PlainMona, True),
    "lora": ("LoRA", {"rank": 4, "alpha": None, "targets": ("q", "v")}, PlainLoRA, True),
    "lora-all": ("LoRA", {"rank": 4, "alpha": 10, "targets": ALL}, PlainLoRA, True),
    "lora-joint": ("LoRA", {"rank": 4, "alpha": 2, "targets": ("qkv",)}, PlainLoRA, True),
    "ssf": ("SSF", {}, PlainSSF, True),
    "vpt-shallow": ("VPTShallow", {"prompt_length": 5}, PlainVPTShallow, False),
    "vpt-deep": ("VPTDeep", {"prompt_length": 5}, PlainVPTDeep, False),
}
for module in (
    plain_adapters,
    plain_attention,
    plain_bottleneck,
    plain_glora,
    plain_low_rank,
    plain_prompts,
    plain_reparameter,
    plain_scaling,
    plain_side,
    plain_updates,
    plain_vit_adapter,
    plain_spt,
):
    CASES |= module.CASES
cases = pytest.mark.parametrize("case", CASES)


def adapted(case, **changes):
    name, options, plain, dropping = CASES[case]
    model = build(HOST, img_size=SIZE)
    torch.manual_seed(1)
    vpeft.attach(model, {"type": name, **options, **changes})
    return perturb(model), options, plain, dropping


def close(got, expected):
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_every_method_is_restated():
    assert {name for name, *_ in CASES.values()} == set(ON_IMAGES)


def test_plain_host():
    model = build(HOST, img_size=SIZE)
    close(tokens(model, images()), PlainViT(model.state_dict())(images()))


@cases
def test_equation(case):
    model, options, plain, _ = adapted(case)
    expected = plain(model.state_dict(), **options)(images())
    close(tokens(model, images()), expected)
    if plain is not PlainViT:
        frozen = PlainViT(model.state_dict())(images())
        assert frozen.shape != expected.shape or not torch.allclose(expected, frozen, rtol=1e-3)


@pytest.mark.parametrize("case", [case for case, (*_, dropping) in CASES.items() if dropping is not None])
def test_droppath_drops_the_branches_only(case):
    """What is left in training where DropPath drops every branch: nothing of a module that sits inside it."""
    model, options, plain, dropping = adapted(case)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = ALMOST_ONE
    model.train()
    keep = 0.0 if dropping else 1.0
    close(tokens(model, images()), plain(model.state_dict(), keep=keep, **options)(images()))


#: Keys that are zero to the same effect as a dropout of everything.
DROPPED = {
    "houlsby": "up.weight",
    "pfeiffer": "up.weight",
    "adaptformer": "up.weight",
    "mona": "up.weight",
    "lora": ".up.",
    "lora-all": ".up.",
    "vpt-shallow": "prompts.weight",
    "vpt-deep": "prompts.weight",
}


@pytest.mark.parametrize("case", DROPPED)
def test_dropout_acts_on_the_code(case):
    """On the hidden code of adapters (``b_up`` stays), the input of LoRA's A, the prompts of VPT."""
    model, options, plain, _ = adapted(case, drop=1.0)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = 0.0
    state = {k: v * 0 if ".peft." in k and DROPPED[case] in k else v for k, v in model.state_dict().items()}
    close(tokens(model.train(), images()), plain(state, **options)(images()))


def own_keys(parts):
    return {f"layers.{i}.{part}" for i in range(3) for part in parts}


TRAINED = {
    "Linear": set(),
    "BitFit": own_keys([f"{p}.bias" for p in ("ln1", "ln2", *LINEARS)]) | {"patch_embed.projection.bias", "ln1.bias"},
    "LNTune": own_keys(["ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"]) | {"ln1.weight", "ln1.bias"},
    "PartialK": {f"layers.2.{part}.{p}" for part in ("ln1", "ln2", *LINEARS) for p in ("weight", "bias")},
    "BlockTune": own_keys([f"{part}.{p}" for part in ("ln1", "ln2", *LINEARS) for p in ("weight", "bias")]),
    "AttentionTune": own_keys([f"attn.{part}.{p}" for part in ("qkv", "proj") for p in ("weight", "bias")]),
    "MLPTune": own_keys([f"ffn.{part}.{p}" for part in ("layers.0.0", "layers.1") for p in ("weight", "bias")]),
}
#: The same for methods that add modules too.
TRAINED_TOO = {
    "DiffFit": TRAINED["BitFit"] | TRAINED["LNTune"],
    "GPS": own_keys([f"{p}.bias" for p in LINEARS]) | {"patch_embed.projection.bias"},
    "SPT-LoRA": {"cls_token"},
    "SPT-Adapter": {"cls_token"},
    "HST": own_keys(["ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias"]),
}


@pytest.mark.parametrize("name", ON_IMAGES)
def test_trained_parameters(name):
    model = build(HOST)
    every = {k for k, _ in model.named_parameters()}
    vpeft.attach(model, name)
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    added = {k for k, _ in model.named_parameters()} - every
    assert trained == {"Full": every, **TRAINED}.get(name, added | TRAINED_TOO.get(name, set()))
    assert bool(added) == (name not in ("Full", *TRAINED))


def test_reparametrised_prefixes_are_constants_at_inference():
    """Made once without a graph, and anew when a parameter has changed."""
    model, *_ = adapted("prefix-reparametrised")
    module = model.layers[0].peft.prefixtuning.prefix
    made = []
    make, module.make = module.make, lambda: made.append(1) or make()
    with torch.no_grad():
        first = tokens(model, images())
        assert torch.equal(tokens(model, images()), first)
        assert len(made) == 1
        module.up.bias.add_(1.0)
        assert not torch.equal(tokens(model, images()), first)
    assert len(made) == 2
    close(tokens(model, images()), plain_attention.PlainReparametrisedPrefix(model.state_dict())(images()))
    assert len(made) == 3


def test_the_drop_path_of_adapter_plus_is_its_own():
    """One draw a sample: what is left is scaled up, what is dropped leaves the stream as it is."""
    from vpeft.algorithms.adapter.bottleneck.adapter_plus import ChannelScaledAdapter

    module = perturb(ChannelScaledAdapter(8, 4, 0.0, 0.5, "bert", norm=False, residual=True)).double()
    x = torch.randn(64, 5, 8, dtype=torch.float64)
    full = module.eval()(x, None) - x
    left = module.train()(x, None) - x
    dropped = (left == 0).flatten(1).all(1)
    assert 10 < dropped.sum() < 54
    torch.testing.assert_close(left[~dropped], 2 * full[~dropped])
