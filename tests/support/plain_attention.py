"""Re-statements of the methods that act on queries, keys and values, or beside attention."""

import math

import torch
import torch.nn.functional as F

from support.plain_vit import PlainViT


class PlainPrefix(PlainViT):
    """``softmax(Q [P_k; K]^T / sqrt(d)) [P_v; V]``."""

    name = "prefixtuning"

    def rows(self, i):
        key = f"layers.{i}.peft.{self.name}.prefix"
        return self.state[f"{key}.key"], self.state[f"{key}.value"]

    def core(self, i, q, k, v, x):
        own_k, own_v = (rows.expand(len(x), -1, -1) for rows in self.rows(i))
        return q, torch.cat([own_k, k], 1), torch.cat([own_v, v], 1)


class PlainReparametrisedPrefix(PlainPrefix):
    """``[P_k, P_v] = W_2 tanh(W_1 E + b_1) + b_2``."""

    def rows(self, i):
        key = f"layers.{i}.peft.{self.name}.prefix"
        both = self.linear(f"{key}.up", torch.tanh(self.linear(f"{key}.down", self.weight(f"{key}.embedding"))))
        return both[:, : both.shape[1] // 2], both[:, both.shape[1] // 2 :]


class PlainPATT(PlainViT):
    """``h = tanh(W_dn x + b)``, the changes ``W_up h + b'`` times s on what ``mode`` names, in that order."""

    name = "patt"

    def core(self, i, q, k, v, x):
        key = f"layers.{i}.peft.{self.name}.patt"
        changes = self.linear(f"{key}.up", torch.tanh(self.linear(f"{key}.down", x)))
        out = {"q": q, "k": k, "v": v}
        for n, which in enumerate(self.options["mode"]):
            dim = x.shape[-1]
            out[which] = out[which] + self.options["scale"] * changes[..., n * dim : (n + 1) * dim]
        return out["q"], out["k"], out["v"]


class PlainBAPAT(PlainPATT):
    """PATT, and ``MLP(n) + s_f (W_up relu(W_dn n + b) + b')`` inside DropPath."""

    name = "bapat"

    def mlp(self, i, x):
        key = f"layers.{i}.peft.bapat.mlp"
        branch = self.linear(f"{key}.up", F.relu(self.linear(f"{key}.down", x)))
        return super().mlp(i, x) + self.options["ffn_scale"] * branch


class PlainUTuning(PlainViT):
    """``OP(X) + tuner(X)``."""

    def tuner(self, i, x):
        key, gate = f"layers.{i}.peft.utuning.tuner", self.options["gate"]
        if self.options["kind"] == "adapter":
            return gate * F.gelu(x @ self.weight(f"{key}.down").T) @ self.weight(f"{key}.up").T
        dim = x.shape[-1]
        weight, bias = self.weight(f"layers.{i}.attn.qkv"), self.state[f"layers.{i}.attn.qkv.bias"]
        parts = [(weight[n * dim : (n + 1) * dim], bias[n * dim : (n + 1) * dim]) for n in range(3)]
        if self.options["kind"] == "prompt":
            prompt = self.state[f"{key}.prompt"]
            keys, values = (prompt @ w.T + b for w, b in parts[1:])
        else:
            keys, values = self.state[f"{key}.key"], self.state[f"{key}.value"]
        q = x @ parts[0][0].T + parts[0][1]
        width = dim // self.heads
        outs = []
        for h in range(self.heads):
            cut = slice(h * width, (h + 1) * width)
            weights = (q[..., cut] @ keys[:, cut].T / math.sqrt(width)).softmax(-1)
            outs.append(weights @ values[:, cut])
        return gate * torch.cat(outs, -1)

    def attention(self, i, x):
        y = super().attention(i, x)
        return y + self.tuner(i, x) if self.options["op"] == "attn" else y

    def mlp(self, i, x):
        y = super().mlp(i, x)
        return y + self.tuner(i, x) if self.options["op"] == "ffn" else y

    def block(self, i, x):
        y = super().block(i, x)
        return y + self.tuner(i, x) if self.options["op"] == "block" else y


class PlainLinearTuner(PlainViT):
    """``proj(x) + s W_up W_dn x``."""

    def linear(self, key, x):
        y = super().linear(key, x)
        if not key.endswith("attn.proj"):
            return y
        key = key.replace("attn.proj", "peft.utuning.tuner")
        return y + self.options["gate"] * x @ (self.weight(f"{key}.up") @ self.weight(f"{key}.down")).T


class PlainNOAH(PlainViT):
    """Prompts at the END of the sequence, joint LoRA on qkv, ``x + A(DP(MLP))`` with QuickGELU.

    A block without prompts has those of the block before.
    """

    def has(self, i, kind):
        return self.options[{"prompt": "prompts", "lora": "ranks", "adapter": "widths"}[kind]][i]

    def linear(self, key, x):
        y = super().linear(key, x)
        if key.endswith("attn.qkv") and self.has(int(key.split(".")[1]), "lora"):
            key = key.replace("attn.qkv", "peft.noah.lora")
            y = y + x @ self.state[f"{key}.down"].T @ self.state[f"{key}.up"].T
        return y

    def block(self, i, x):
        self.count = x.shape[1] if i == 0 else self.count
        if self.has(i, "prompt"):
            x = torch.cat([x[:, : self.count], self.weight(f"layers.{i}.peft.noah.prompt").expand(len(x), -1, -1)], 1)
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        y = self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        if self.has(i, "adapter"):
            key = f"layers.{i}.peft.noah.adapter"
            hidden = self.linear(f"{key}.down", y)
            y = y + self.linear(f"{key}.up", hidden / (1 + torch.exp(-1.702 * hidden)))
        return (x + y)[:, : self.count] if i == self.depth - 1 else x + y


PATT = {"hidden": 8, "scale": 0.7}
SIZES = {"prompts": (2, 0, 3), "ranks": (0, 4, 2), "widths": (3, 5, 0), "drop": 0.0}
CASES = {
    "prefix": ("PrefixTuning", {"prefix_length": 3}, PlainPrefix, True),
    "prefix-reparametrised": (
        "PrefixTuning",
        {"prefix_length": 3, "reparametrised": True, "hidden": 8},
        PlainReparametrisedPrefix,
        True,
    ),
    "patt": ("PATT", {**PATT, "mode": "kv"}, PlainPATT, True),
    "patt-all": ("PATT", {**PATT, "mode": "qkv"}, PlainPATT, True),
    "bapat": ("BAPAT", {**PATT, "mode": "kv", "bottleneck": 8, "ffn_scale": 0.3, "drop": 0.0}, PlainBAPAT, True),
    "u-prefix": ("UTuning", {"op": "attn", "kind": "prefix", "length": 3, "gate": 0.7}, PlainUTuning, True),
    "u-adapter": ("UTuning", {"op": "ffn", "kind": "adapter", "length": 3, "gate": 0.7}, PlainUTuning, True),
    "u-prompt": ("UTuning", {"op": "block", "kind": "prompt", "length": 3, "gate": 0.7}, PlainUTuning, True),
    "u-linear": (
        "UTuning",
        {"op": "proj", "kind": "adapter", "act": "none", "length": 3, "gate": 0.7},
        PlainLinearTuner,
        True,
    ),
    "noah": ("NOAH", SIZES, PlainNOAH, True),
}
