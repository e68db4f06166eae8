"""More methods on mmpretrain's Swin: what windows, padding, stages and patch merging mean for them."""

import pytest
import torch
import torch.nn.functional as F
from support.hosts import build, perturb, tokens
from support.plain_adapters import quick_gelu, synthesised
from support.plain_reparameter import PlainRepAdapter
from test_equations import ALMOST_ONE, close
from test_equations_swin import HOST, SIZES, PlainSwin, images

import vpeft


class SwinPrefix(PlainSwin):
    """Every window's keys and values have the prefixes in front, without bias and mask."""

    def window_attention(self, key, x, heads, bias):
        batch, count, dim = x.shape
        own = key.replace("attn.w_msa", "peft.prefixtuning.prefix")
        q, k, v = self.linear(f"{key}.qkv", x).split(dim, -1)
        k = torch.cat([self.state[f"{own}.key"].expand(batch, -1, -1), k], 1)
        v = torch.cat([self.state[f"{own}.value"].expand(batch, -1, -1), v], 1)
        bias = torch.cat([torch.zeros(*bias.shape[:2], k.shape[1] - count, dtype=x.dtype), bias], -1)
        return self.attend(key, q, k, v, heads, bias)

    def attend(self, key, q, k, v, heads, bias):
        batch, count, dim = q.shape
        q, k, v = (t.view(batch, -1, heads, dim // heads).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT / (dim // heads) ** 0.5 + bias).softmax(-1)
        return self.linear(f"{key}.proj", (weights @ v).transpose(1, 2).reshape(batch, count, dim))


class SwinPATT(SwinPrefix):
    """Per token of the window: k and v change before the heads are split."""

    def window_attention(self, key, x, heads, bias):
        own = key.replace("attn.w_msa", "peft.patt.patt")
        q, k, v = self.linear(f"{key}.qkv", x).split(x.shape[-1], -1)
        dk, dv = self.linear(f"{own}.up", torch.tanh(self.linear(f"{own}.down", x))).split(x.shape[-1], -1)
        scale = self.options["scale"]
        return self.attend(key, q, k + scale * dk, v + scale * dv, heads, bias)


class SwinRepAdapter(PlainSwin):
    """Inside the windows, so that padded tokens pass it too."""

    def linear(self, key, x):
        for end, site in (("attn.w_msa.qkv", "qkv"), ("ffn.layers.0.0", "fc1")):
            if key.endswith(end):
                own = key.replace(end, f"peft.repadapter.{site}")
                x = PlainRepAdapter.phi(self, x, lambda rest, own=own: self.state[f"{own}.{rest}"])
        return super().linear(key, x)


class SwinFacT(PlainSwin):
    """Shared factors per stage; slices as on ViT, four of fc1 and fc2."""

    sites = {"attn.w_msa.qkv": "qkv", "attn.w_msa.proj": "proj", "ffn.layers.0.0": "fc1", "ffn.layers.1": "fc2"}

    def weight(self, key):
        weight = super().weight(key)
        site = next((s for end, s in self.sites.items() if key.endswith(end)), None)
        if site is None:
            return weight
        stage = key.split(".")[1]
        block = ".".join(key.split(".")[:4])
        down, up = (self.state[f"peft.fact_tt.shared{stage}.{part}"] for part in ("down", "up"))
        weight, dim = weight.clone(), len(up)
        for j, inner in enumerate(self.state[f"{block}.peft.fact_tt.{site}.weight"]):
            change, where = self.options["scale"] * up @ inner @ down, slice(j * dim, (j + 1) * dim)
            if site == "fc2":
                weight[:, where] += change
            else:
                weight[where] += change
        return weight


class SwinConvpass(PlainSwin):
    """On the map of the stage, not in windows."""

    def bypass(self, key, place, n, hw):
        own = f"{key}.peft.convpass.{place}"
        hidden = quick_gelu(self.linear(f"{own}.down", n)).mT.unflatten(2, hw)
        hidden = F.conv2d(hidden, self.weight(f"{own}.conv"), self.state[f"{own}.conv.bias"], padding=1)
        return self.options["scale"] * self.linear(f"{own}.up", quick_gelu(hidden.flatten(2).mT))

    def block_on(self, stage, i, x, hw):
        key = f"stages.{stage}.blocks.{i}"
        n = self.norm(f"{key}.norm1", x)
        x = x + self.keep * (self.attention_on(stage, i, n, hw) + self.bypass(key, "attn", n, hw))
        n = self.norm(f"{key}.norm2", x)
        return x + self.keep * (self.mlp_on(stage, i, n) + self.bypass(key, "mlp", n, hw))


class SwinDTL(PlainSwin):
    """The state starts anew in the second stage, whose first block is the first that is changed here."""

    name = "dtl"

    def block_on(self, stage, i, x, hw):
        if stage == 0:
            return super().block_on(stage, i, x, hw)
        own = f"stages.{stage}.blocks.{i}.peft.{self.name}.side"
        change = x @ (self.state[f"{own}.up"] @ self.state[f"{own}.down"]).T
        self.e = change if i == 0 else self.e + change
        x = super().block_on(stage, i, x, hw)
        return x + self.g(self.e / (1 + torch.exp(-self.options["beta"] * self.e)), hw)

    def g(self, e, hw):
        return e


class SwinDTLPlus(SwinDTL):
    """With the convolution of the stage."""

    name = "dtl_"

    def g(self, e, hw):
        weight = self.weight("peft.dtl_.conv1")
        return F.conv2d(e.mT.unflatten(2, hw), weight, padding=1, groups=len(weight)).flatten(2).mT


class SwinE3VA(PlainSwin):
    """The highway passes the frozen merging by itself, and the output norm reads it."""

    def delta(self, key, place, y):
        own = f"{key}.peft.e3va.{place}"
        return synthesised(self.state, f"{own}.up", F.gelu(synthesised(self.state, f"{own}.down", y)))

    def run(self, images):
        x, hw = self.embed(images)
        highway = x
        for stage in range(2):
            for i in range(2):
                key = f"stages.{stage}.blocks.{i}"
                a = self.attention_on(stage, i, self.norm(f"{key}.norm1", x), hw)
                x = x + a
                f = self.mlp_on(stage, i, self.norm(f"{key}.norm2", x))
                x = x + f
                highway = highway + a + self.delta(key, "attn", a) + f + self.delta(key, "mlp", f)
            if stage == 0:
                highway, _ = self.merging(highway, hw)
                x, hw = self.merging(x, hw)
        return self.norm("norm1", highway), hw


CASES = {
    "prefix": ("PrefixTuning", {"prefix_length": 3}, SwinPrefix, True),
    "patt": ("PATT", {"hidden": 8, "scale": 0.7}, SwinPATT, True),
    "repadapter": ("RepAdapter", {"bottleneck": 8, "groups": 2, "scale": 0.7, "drop": 0.0}, SwinRepAdapter, True),
    "fact-tt": ("FacT-TT", {"rank": 4, "scale": 0.7, "drop": 0.0}, SwinFacT, True),
    "convpass": ("Convpass", {"bottleneck": 4, "scale": 0.7, "drop": 0.0}, SwinConvpass, True),
    "dtl": ("DTL", {"rank": 3, "beta": 5.0}, SwinDTL, True),
    "dtl-plus": ("DTL+", {"rank": 3, "beta": 5.0}, SwinDTLPlus, True),
    "e3va": ("E3VA", {"alpha": 3, "beta": 4, "reduction": 4}, SwinE3VA, False),
}


def adapted(case):
    name, options, plain, dropping = CASES[case]
    model = build(HOST, pad_small_map=True)
    torch.manual_seed(1)
    vpeft.attach(model, {"type": name, **options})
    return perturb(model), options, plain, dropping


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("case", CASES)
def test_equation(case, size):
    model, options, plain, _ = adapted(case)
    expected = plain(model.state_dict(), **options)(images(size))
    close(tokens(model, images(size)), expected)
    assert not torch.allclose(expected, PlainSwin(model.state_dict())(images(size)), rtol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_droppath_drops_the_branches_only(case):
    model, options, plain, dropping = adapted(case)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = ALMOST_ONE
    x = images(SIZES["whole"])
    expected = plain(model.state_dict(), keep=0.0 if dropping else 1.0, **options)(x)
    close(tokens(model.train(), x), expected)


def test_the_highway_feeds_every_output_norm():
    """With an output per stage, each reads the highway of its stage."""
    model = build(HOST, out_indices=(0, 1))
    vpeft.attach(model, {"type": "E3VA", "train_norms": True})
    x = images(SIZES["whole"])
    before = [out.clone() for out in model(x)]
    assert {k for k, p in model.named_parameters() if p.requires_grad and "peft" not in k} == {
        f"norm{i}.{part}" for i in (0, 1) for part in ("weight", "bias")
    }
    for stage, reached in ((0, (True, True)), (1, (False, True))):
        bias = model.stages[stage].blocks[1].peft.e3va.mlp.up.bias
        change = torch.linspace(-1, 1, len(bias), dtype=bias.dtype)
        with torch.no_grad():
            bias.add_(change)
        after = model(x)
        assert tuple(not torch.allclose(a, b, atol=1e-3) for a, b in zip(after, before, strict=True)) == reached
        with torch.no_grad():
            bias.sub_(change)
