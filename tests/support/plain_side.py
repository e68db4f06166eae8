"""Re-statements of the side networks."""

import math

import torch
import torch.nn.functional as F

from support.plain_adapters import synthesised
from support.plain_vit import MAP, PlainViT, standardised


class Hidden(PlainViT):
    """Keeps the embedded tokens and the output of every block."""

    def encode(self, x):
        self.h = [x]
        for i in range(self.depth):
            self.h.append(self.block(i, self.h[-1]))
        return self.h[-1]

    def affine_norm(self, key, x, eps=1e-5):
        return standardised(x, eps) * self.weight(key) + self.state[f"{key}.bias"]

    def head_tokens(self, x):
        """The tokens behind patch and position embedding and all blocks."""
        x = self.patches(x)
        x = torch.cat([self.state["cls_token"].expand(x.shape[0], -1, -1), x], 1) + self.state["pos_embed"]
        return self.encode(x)


def attention(q, k, v, heads):
    """Multi-head attention on ``(B, n, w)``, head by head."""
    width, outs = q.shape[-1] // heads, []
    for h in range(heads):
        cut = slice(h * width, (h + 1) * width)
        weights = (q[..., cut] @ k[..., cut].mT / math.sqrt(width)).softmax(-1)
        outs.append(weights @ v[..., cut])
    return torch.cat(outs, -1)


class PlainLST(Hidden):
    """The ladder of pre-norm blocks."""

    def side_block(self, key, s):
        q, k, v = self.linear(f"{key}.attn.qkv", self.affine_norm(f"{key}.norm1", s, 1e-6)).chunk(3, -1)
        s = s + self.linear(f"{key}.attn.proj", attention(q, k, v, 4))
        hidden = F.gelu(self.linear(f"{key}.mlp.fc1", self.affine_norm(f"{key}.norm2", s, 1e-6)))
        return s + self.linear(f"{key}.mlp.fc2", hidden)

    def __call__(self, x):
        self.head_tokens(x)
        key = "peft.lst.ladder"
        s = self.linear(f"{key}.down.0", self.h[0])
        for i in range(1, self.depth + 1):
            mu = torch.sigmoid(self.state[f"{key}.gate"][i - 1] / 0.1)
            s = mu * s + (1 - mu) * self.linear(f"{key}.down.{i}", self.h[i])
            s = self.side_block(f"{key}.blocks.{i - 1}", s)
        return self.linear(f"{key}.up", self.affine_norm(f"{key}.norm", s, 1e-6)).flatten(1)


class PlainLAST(Hidden):
    """``u_i = F_i(u_{i-1} + z_i)``, ``u_m - sum_{i<m} z_i``, with the sums written out."""

    def __call__(self, x):
        self.head_tokens(x)
        z = self.h[:: self.options["group"]]
        u = z[0]
        for i, z_i in enumerate(z[1:], start=1):
            u = u + z_i
            block = i * self.options["group"] - 1
            for t in range(self.options["depth"]):
                key = f"layers.{block}.peft.last.side.layers.{t}"
                q, k, v = self.linear(f"{key}.qkv", self.affine_norm(f"{key}.norm", u)).chunk(3, -1)
                u = u + self.linear(f"{key}.out", attention(q, k, v, 1))
        return self.norm("ln1", u - sum(z[:-1])).flatten(1)


class PlainDTL(Hidden):
    """``e <- e + B A x`` before a block, ``x <- x + g(theta(e))`` behind the blocks from 1 on."""

    name = "dtl"

    def encode(self, x):
        e = 0
        for i in range(self.depth):
            key = f"layers.{i}.peft.{self.name}.side"
            e = e + x @ (self.state[f"{key}.up"] @ self.state[f"{key}.down"]).T
            x = self.block(i, x)
            if i >= 1:
                x = x + self.g(e / (1 + torch.exp(-self.options["beta"] * e)))
        if self.options.get("read_out") == "mean":
            x = torch.cat([x[:, 1:].mean(1, keepdim=True), x[:, 1:]], 1)
        return x

    def g(self, e):
        return e


class PlainDTLPlus(PlainDTL):
    """The map of theta(e) through a shared depthwise convolution."""

    name = "dtl_"

    def g(self, e):
        weight = self.weight("peft.dtl_.conv0")
        before, behind = (weight.shape[-1] - 1) // 2, weight.shape[-1] // 2  # 1 and 2 for a kernel of 4
        spatial = F.pad(e[:, 1:].mT.unflatten(2, MAP), (before, behind, before, behind))
        spatial = F.conv2d(spatial, weight, groups=len(weight))
        return torch.cat([e[:, :1], spatial.flatten(2).mT], 1)


class PlainE3VA(Hidden):
    """``H <- H + (a + Delta_1(a))``, ``H <- H + (f + Delta_2(f))`` beside the frozen stream."""

    def delta(self, i, place, y):
        key = f"layers.{i}.peft.e3va.{place}"
        return synthesised(self.state, f"{key}.up", F.gelu(synthesised(self.state, f"{key}.down", y)))

    def encode(self, x):
        highway = x
        for i in range(self.depth):
            a = self.attention(i, self.norm(f"layers.{i}.ln1", x))
            x = x + a
            f = self.mlp(i, self.norm(f"layers.{i}.ln2", x))
            x = x + f
            highway = highway + (a + self.delta(i, "attn", a))
            highway = highway + (f + self.delta(i, "mlp", f))
        return highway


class PlainHST(Hidden):
    """Three blocks, so three stages of one side block each; widths 32, 48, 64, heads 2, 4, 8."""

    def conv(self, key, x, **kwargs):
        return F.conv2d(x, self.weight(key), self.state.get(f"{key}.bias"), **kwargs)

    def encode(self, x):
        self.meta, self.maps = [], []
        for i in range(self.depth):
            token = self.weight(f"layers.{i}.peft.hst.meta").expand(len(x), -1, -1)
            x = self.block(i, torch.cat([token, x], 1))  # in FRONT of the class token
            self.meta.append(x[:, :1])
            x = x[:, 1:]
            self.maps.append(x[:, 1:].mT.unflatten(2, MAP))
        return x

    def side_block(self, key, x, meta, features, heads):
        context = torch.cat([self.affine_norm(f"{key}.token_norm", meta), features.mean(1, keepdim=True)], 1)
        q = self.linear(f"{key}.query", self.affine_norm(f"{key}.norm1", x, 1e-6))
        k, v = self.linear(f"{key}.key_value", context).chunk(2, -1)
        x = x + self.linear(f"{key}.proj", attention(q, k, v, heads))
        x = x + features
        hidden = F.gelu(self.linear(f"{key}.mlp.0", self.affine_norm(f"{key}.norm2", x, 1e-6)))
        return x + self.linear(f"{key}.mlp.2", hidden)

    def __call__(self, image):
        self.head_tokens(image)
        x = image
        for stage, heads in enumerate((2, 4, 8)):
            key = f"peft.hst.network.stages.{stage}"
            x = self.conv(f"{key}.conv", x, stride=2, padding=1)
            if stage == 0:
                bn = f"{key}.batch_norm"  # running mean 0 and variance 1 as long as nothing was trained
                x = x / math.sqrt(1 + 1e-5) * self.weight(bn)[:, None, None] + self.state[f"{bn}.bias"][:, None, None]
                x = self.conv(f"{key}.conv2", F.relu(x), stride=2)
            height, width = x.shape[2:]
            x = self.affine_norm(f"{key}.norm_in", x.flatten(2).mT)
            resized = F.interpolate(self.maps[stage], (height, width), mode="bilinear", align_corners=False)
            features = self.linear(f"{key}.bridge", resized.flatten(2).mT)
            x = self.side_block(f"{key}.blocks.0", x, self.linear(f"{key}.bridge", self.meta[stage]), features, heads)
            x = self.affine_norm(f"{key}.norm_out", x, 1e-6)
            tokens, x = x, x.mT.unflatten(2, (height, width))
        features = tokens.mean(1, keepdim=True) / math.sqrt(1 + 1e-6)
        return features.expand(-1, 2, -1).flatten(1)


class PlainVQT(Hidden):
    """Every block once more on its own tokens, with keys and values of the stream; the head's vector as every token."""

    def query_block(self, i, q, x):
        dim, width = x.shape[-1], x.shape[-1] // self.heads
        weight, bias = self.weight(f"layers.{i}.attn.qkv"), self.state[f"layers.{i}.attn.qkv.bias"]
        normed = {"q": self.norm(f"layers.{i}.ln1", q), "kv": self.norm(f"layers.{i}.ln1", x)}
        asked = normed["q"] @ weight[:dim].T + bias[:dim]
        keys, values = (normed["kv"] @ weight[dim:].T + bias[dim:]).chunk(2, -1)
        outs = []
        for h in range(self.heads):
            cut = slice(h * width, (h + 1) * width)
            scores = asked[..., cut] @ keys[..., cut].mT / math.sqrt(width)
            outs.append(scores.softmax(-1) @ values[..., cut])
        q = q + self.linear(f"layers.{i}.attn.proj", torch.cat(outs, -1))
        return q + self.mlp(i, self.norm(f"layers.{i}.ln2", q))

    def encode(self, x):
        self.parts = []
        for i in range(self.depth):
            q = self.query_block(i, self.weight(f"layers.{i}.peft.vqt.queries").expand(len(x), -1, -1), x)
            if self.options["combine"] == "weighted":
                self.parts.append(torch.einsum("n,bnd->bd", self.state["peft.vqt.joined.mix"][i], q))
            else:
                self.parts.append(q.mean(1) if self.options["combine"] == "mean" else q.flatten(1))
            x = self.block(i, x)
        return x

    def __call__(self, image):
        parts = [self.norm("ln1", self.head_tokens(image))[:, 0], *self.parts]
        if self.options["normalise"]:
            parts = [part / part.norm(dim=1, keepdim=True) for part in parts]
        return torch.cat(parts, 1)[:, None].expand(-1, 2, -1).flatten(1)


class PlainViTSplit(Hidden):
    """Copies of the last blocks and the frozen maps through deformable convolutions, place by place."""

    def __call__(self, x):
        self.head_tokens(x)
        key, tuned = "peft.vit_split.head", self.options["tuned"]
        read = (2,) if self.options["maps"] == 1 else (0, 2)
        start = f"{key}.blocks."
        own = PlainViT({k.replace(start, "layers."): v for k, v in self.state.items() if k.startswith(start)})
        t = self.h[self.depth - tuned]
        for j in range(tuned):
            t = own.block(j, t)
        t = self.norm("ln1", t)
        frozen = [self.norm("ln1", self.h[i + 1])[:, 1:].mT.unflatten(2, MAP) for i in read]
        f = self.fuse(f"{key}.frozen", torch.cat(frozen, 1))
        y = self.fuse(f"{key}.fusion", torch.cat([f, t[:, 1:].mT.unflatten(2, MAP)], 1))
        return torch.cat([t[:, :1], y.flatten(2).mT], 1).flatten(1)

    def fuse(self, key, x):
        x = F.gelu(F.conv2d(x, self.weight(f"{key}.0"), self.state[f"{key}.0.bias"]))
        offsets = F.conv2d(x, self.weight(f"{key}.2.offsets"), self.state[f"{key}.2.offsets.bias"], padding=1)
        weight, (height, width) = self.weight(f"{key}.2"), x.shape[2:]
        out = torch.zeros_like(x)
        for b in range(len(x)):
            for row in range(height):
                for column in range(width):
                    for k in range(9):
                        at_y = row + k // 3 - 1 + offsets[b, 2 * k, row, column]
                        at_x = column + k % 3 - 1 + offsets[b, 2 * k + 1, row, column]
                        seen = bilinear(x[b], at_y, at_x)
                        out[b, :, row, column] += weight[:, :, k // 3, k % 3] @ seen
        return F.gelu(out)


def bilinear(x, at_y, at_x):
    """``x`` (C, H, W) between its places, zero outside."""
    y, x_at, total = int(torch.floor(at_y)), int(torch.floor(at_x)), 0
    for i, wy in ((y, 1 - (at_y - y)), (y + 1, at_y - y)):
        for j, wx in ((x_at, 1 - (at_x - x_at)), (x_at + 1, at_x - x_at)):
            if 0 <= i < x.shape[1] and 0 <= j < x.shape[2]:
                total = total + wy * wx * x[:, i, j]
    return total if isinstance(total, torch.Tensor) else x.new_zeros(len(x))


DTL = {"rank": 3, "beta": 5.0, "first_out": 1}


def side_map(state, key, image):
    """Four times a convolution, a norm over two groups of channels and ReLU."""
    x = image
    for layer, (stride, padding) in zip((0, 3, 6, 9), ((4, 2), (2, 1), (2, 1), (1, 1)), strict=True):
        x = F.conv2d(x, state[f"{key}.{layer}.weight"], stride=stride, padding=padding)
        groups = standardised(x.flatten(1).view(len(x), 2, -1), 1e-5).view(x.shape)
        weight, bias = (state[f"{key}.{layer + 1}.{name}"].view(-1, 1, 1) for name in ("weight", "bias"))
        x = F.relu(groups * weight + bias)
    return x


class PlainSideTuning(Hidden):
    """``alpha B(x) + (1 - alpha) P mean S(x)`` at every token."""

    def __call__(self, image):
        base = self.norm("ln1", self.head_tokens(image))
        alpha = torch.sigmoid(self.state["peft.sidetuning.norm_0.alpha"])
        side = side_map(self.state, "peft.sidetuning.network", image).mean((2, 3))
        side = side @ self.weight("peft.sidetuning.norm_0.project").T
        return (alpha * base + (1 - alpha) * side[:, None]).flatten(1)


CASES = {
    "side-tuning": ("SideTuning", {"width": 6, "alpha": 0.7}, PlainSideTuning, False),
    "lst": ("LST", {"reduction": 4}, PlainLST, False),
    "last": ("LAST", {"rank": 4, "group": 1, "depth": 2}, PlainLAST, False),
    "last-grouped": ("LAST", {"rank": 4, "group": 3, "depth": 1}, PlainLAST, False),
    "dtl": ("DTL", DTL, PlainDTL, True),
    "dtl-mean": ("DTL", {**DTL, "read_out": "mean"}, PlainDTL, True),
    "dtl-plus": ("DTL+", DTL, PlainDTLPlus, True),
    "dtl-plus-even": ("DTL+", {**DTL, "kernel": 4}, PlainDTLPlus, True),
    "e3va": ("E3VA", {"alpha": 3, "beta": 4, "reduction": 4}, PlainE3VA, False),
    "hst": ("HST", {}, PlainHST, None),
    "vqt": ("VQT", {"prompt_length": 3, "combine": "concat", "normalise": True, "drop": 0.0}, PlainVQT, False),
    "vqt-plain": ("VQT", {"prompt_length": 2, "combine": "mean", "normalise": False, "drop": 0.0}, PlainVQT, False),
    "vqt-weighted": (
        "VQT",
        {"prompt_length": 2, "combine": "weighted", "normalise": True, "drop": 0.0},
        PlainVQT,
        False,
    ),
    "vit-split": ("ViT-Split", {"tuned": 2, "maps": 2, "start": 0}, PlainViTSplit, None),
    "vit-split-one-map": ("ViT-Split", {"tuned": 1, "maps": 1}, PlainViTSplit, None),
}
