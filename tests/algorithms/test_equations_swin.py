"""VPT, Mona and LoRA on mmpretrain's Swin, re-stated in plain torch functions over ``state_dict()``.

Windows are cut by loops, the bias table is looked up entry by entry, and the mask is built from its meaning.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from support.hosts import build, perturb, tokens
from test_equations import ALMOST_ONE, PlainMona, PlainViT, close, lora_weight

import vpeft

HOST = "mmpretrain.SwinTransformer"
WINDOW = 4
#: Image sizes: whole windows of a map that is not square, and one that every stage pads.
SIZES = {"whole": (32, 48), "padded": (36, 26)}


def images(size, count=2):
    return torch.randn(count, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


class PlainSwin(PlainViT):
    """Two stages of two blocks; the stream is ``(B, prompts + H W, C)``. The second block of a stage is shifted."""

    eps, patch, heads, prompts = 1e-5, 2, (2, 4), 0

    def rounded(self, hw):
        return tuple(-(-side // WINDOW) * WINDOW for side in hw)

    def windows(self, hw, shift):
        """Of each window, the places on the padded map that it reads, row by row, and its allowed pairs."""
        height, width = self.rounded(hw)
        for top in range(0, height, WINDOW):
            for left in range(0, width, WINDOW):
                rows, columns = range(top, top + WINDOW), range(left, left + WINDOW)
                cells = [(r, c) for r in rows for c in columns]
                places = [((r + shift) % height, (c + shift) % width) for r, c in cells]
                # Two cells attend to one another where both or neither were wrapped around, along both sides.
                wrapped = [(r + shift >= height, c + shift >= width) for r, c in cells]
                yield places, [[a == b for b in wrapped] for a in wrapped]

    def bias(self, key):
        """``(heads, N, N)``: the table's row for the offset of query and key."""
        table = self.state[f"{key}.relative_position_bias_table"]
        cells = [(r, c) for r in range(WINDOW) for c in range(WINDOW)]
        bias = torch.zeros(table.shape[1], len(cells), len(cells), dtype=table.dtype)
        for i, (r, c) in enumerate(cells):
            for j, (s, d) in enumerate(cells):
                bias[:, i, j] = table[(r - s + WINDOW - 1) * (2 * WINDOW - 1) + c - d + WINDOW - 1]
        return bias

    def window_attention(self, key, x, heads, bias):
        batch, count, dim = x.shape
        qkv = self.linear(f"{key}.qkv", x)
        q, k, v = (t.view(batch, count, heads, -1).transpose(1, 2) for t in qkv.split(dim, -1))
        weights = (q @ k.mT / math.sqrt(dim // heads) + bias).softmax(-1)
        return self.linear(f"{key}.proj", (weights @ v).transpose(1, 2).reshape(batch, count, dim))

    def attention_on(self, stage, i, x, hw):
        """Every window also holds the prompts, without bias and mask; they leave as the mean over the windows."""
        key, count = f"stages.{stage}.blocks.{i}.attn.w_msa", self.prompts
        prompts, grid = x[:, :count], x[:, count:].unflatten(1, hw)
        (height, width), (full_h, full_w) = hw, self.rounded(hw)
        grid = F.pad(grid, (0, 0, 0, full_w - width, 0, full_h - height))
        out, left_over, relative = torch.zeros_like(grid), [], self.bias(key)
        for places, allowed in self.windows(hw, WINDOW // 2 if i % 2 else 0):
            window = torch.stack([grid[:, r, c] for r, c in places], 1)
            bias = torch.zeros(self.heads[stage], *[count + len(places)] * 2, dtype=x.dtype)
            bias[:, count:, count:] = relative + torch.where(torch.tensor(allowed), 0.0, -100.0)
            y = self.window_attention(key, torch.cat([prompts, window], 1), self.heads[stage], bias)
            left_over.append(y[:, :count])
            for n, (r, c) in enumerate(places):
                out[:, r, c] = y[:, count + n]
        mean = sum(left_over) / len(left_over)
        return torch.cat([mean, out[:, :height, :width].flatten(1, 2)], 1)

    def mlp_on(self, stage, i, x):
        key = f"stages.{stage}.blocks.{i}.ffn.layers"
        return self.linear(f"{key}.1", F.gelu(self.linear(f"{key}.0.0", x)))

    def block_on(self, stage, i, x, hw):
        key = f"stages.{stage}.blocks.{i}"
        x = x + self.keep * self.attention_on(stage, i, self.norm(f"{key}.norm1", x), hw)
        return x + self.keep * self.mlp_on(stage, i, self.norm(f"{key}.norm2", x))

    def reduce(self, x):
        """Four neighbours ``(..., C, 2, 2)`` to one token; mmcv keeps the four of a channel together."""
        return self.norm("stages.0.downsample.norm", x.flatten(-3)) @ self.weight("stages.0.downsample.reduction").T

    def merging(self, x, hw):
        prompts, grid = x[:, : self.prompts], x[:, self.prompts :].unflatten(1, hw)
        (height, width), (half_h, half_w) = hw, (-(-hw[0] // 2), -(-hw[1] // 2))
        grid = F.pad(grid, (0, 0, 0, 2 * half_w - width, 0, 2 * half_h - height))
        merged = [
            self.reduce(grid[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].permute(0, 3, 1, 2))
            for r in range(half_h)
            for c in range(half_w)
        ]
        copies = torch.stack([torch.stack([prompts, prompts], -1)] * 2, -1)
        return torch.cat([self.reduce(copies), torch.stack(merged, 1)], 1), (half_h, half_w)

    def embed(self, images):
        x = self.norm("patch_embed.norm", self.patches(images))
        return x, (images.shape[-2] // 2, images.shape[-1] // 2)

    def run(self, images):
        x, hw = self.embed(images)
        for stage in range(2):
            for i in range(2):
                x = self.block_on(stage, i, x, hw)
            if stage == 0:
                x, hw = self.merging(x, hw)
        return self.norm("norm1", x), hw

    def __call__(self, images):
        x, hw = self.run(images)
        return x.mT.unflatten(2, hw).flatten(1)


class PlainSwinMona(PlainSwin):
    """After each residual addition, on the map of the stage."""

    def module(self, key, x, hw):
        s = self.state
        y = s[f"{key}.gamma1"] * self.norm(f"{key}.norm", x) + s[f"{key}.gamma2"] * x
        e = PlainMona.filter(self, key, self.linear(f"{key}.down", y), hw)
        return x + self.linear(f"{key}.up", F.gelu(e))

    def block_on(self, stage, i, x, hw):
        key = f"stages.{stage}.blocks.{i}"
        x = x + self.keep * self.attention_on(stage, i, self.norm(f"{key}.norm1", x), hw)
        x = self.module(f"{key}.peft.mona.attn", x, hw)
        x = x + self.keep * self.mlp_on(stage, i, self.norm(f"{key}.norm2", x))
        return self.module(f"{key}.peft.mona.mlp", x, hw)


class PlainSwinLoRA(PlainSwin):
    """``W <- W0 + (alpha / r) B A`` on the rows of q and v."""

    def weight(self, key):
        weight = super().weight(key)
        if not key.endswith("attn.w_msa.qkv"):
            return weight
        key = key.replace("attn.w_msa.qkv", "peft.lora.qkv")
        return lora_weight(self.state, weight, key, ("q", "v"), self.options["alpha"] / self.options["rank"])


class PlainSwinVPTShallow(PlainSwin):
    """Prompts enter before the first block, and the head's mean runs over them and the map."""

    @property
    def prompts(self):
        return self.options["prompt_length"]

    def prompt(self, stage, i, name, x):
        return self.weight(f"stages.{stage}.blocks.{i}.peft.{name}.prompts").expand(x.shape[0], -1, -1)

    def embed(self, images):
        x, hw = super().embed(images)
        return torch.cat([self.prompt(0, 0, "vptshallow", x), x], 1), hw

    def pooled(self, images):
        x, _ = self.run(images)
        return (x if self.options["pool_prompts"] else x[:, self.prompts :]).mean(1)


class PlainSwinVPTDeep(PlainSwinVPTShallow):
    """Each block's own prompts take the place of those that come in."""

    def embed(self, images):
        x, hw = PlainSwin.embed(self, images)
        return torch.cat([x[:, :1].expand(-1, self.prompts, -1) * 0, x], 1), hw

    def block_on(self, stage, i, x, hw):
        fresh = self.prompt(stage, i, "vptdeep", x)
        return super().block_on(stage, i, torch.cat([fresh, x[:, self.prompts :]], 1), hw)


CASES = {
    "mona": ("Mona", {"bottleneck": 16}, PlainSwinMona),
    "lora": ("LoRA", {"rank": 4, "alpha": 10}, PlainSwinLoRA),
    "vpt-shallow": ("VPTShallow", {"prompt_length": 3, "pool_prompts": True}, PlainSwinVPTShallow),
    "vpt-shallow-map": ("VPTShallow", {"prompt_length": 3, "pool_prompts": False}, PlainSwinVPTShallow),
    "vpt-deep": ("VPTDeep", {"prompt_length": 3, "pool_prompts": True}, PlainSwinVPTDeep),
    "vpt-deep-map": ("VPTDeep", {"prompt_length": 3, "pool_prompts": False}, PlainSwinVPTDeep),
}
sizes = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)


@sizes
def test_plain_host(size):
    model = build(HOST, pad_small_map=True)
    close(tokens(model, images(size)), PlainSwin(model.state_dict())(images(size)))


def compare(model, stated, case, x):
    out = model(x)[0]
    if "vpt" not in case:
        close(out.flatten(1), stated(x))
        return
    close(out.mean((2, 3)), stated.pooled(x))
    if not stated.options["pool_prompts"]:
        stream, hw = stated.run(x)
        close(out, stream[:, stated.prompts :].mT.unflatten(2, hw))


def adapted(case):
    name, options, plain = CASES[case]
    model = build(HOST, pad_small_map=True)
    torch.manual_seed(1)
    vpeft.attach(model, {"type": name, **options})
    return perturb(model), options, plain


@sizes
@pytest.mark.parametrize("case", CASES)
def test_equation(case, size):
    model, options, plain = adapted(case)
    compare(model, plain(model.state_dict(), **options), case, images(size))


@pytest.mark.parametrize("case", CASES)
def test_droppath_drops_the_branches_only(case):
    """What is left in training where DropPath drops every branch; with VPT the base is in eval mode and drops none."""
    model, options, plain = adapted(case)
    for module in model.modules():
        if type(module).__name__ == "DropPath":
            module.drop_prob = ALMOST_ONE
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    keep = 1.0 if "vpt" in case else 0.0
    compare(model.train(), plain(model.state_dict(), keep=keep, **options), case, images(SIZES["whole"]))
