"""mmpretrain's ViT in plain torch functions over ``state_dict()``: what the methods' equations are re-stated on."""

import math

import torch
import torch.nn.functional as F

HOST = "mmpretrain.VisionTransformer"
SIZE = (32, 24)  # not square, so that a transposed map shows
MAP = (4, 3)


def images(count=2):
    return torch.randn(count, 3, *SIZE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def standardised(x, eps):
    x = x - x.mean(-1, keepdim=True)
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


class PlainViT:
    """Pre-norm ViT. ``keep`` is what DropPath leaves of a branch: 1, or 0 where it drops every image."""

    heads, patch, eps = 4, 8, 1e-6

    def __init__(self, state, keep=1.0, **options):
        self.state, self.keep, self.options = state, keep, options
        self.depth = len({k.split(".")[1] for k in state if k.startswith("layers.")})

    def weight(self, key):
        return self.state[f"{key}.weight"]

    def linear(self, key, x):
        return x @ self.weight(key).T + self.state[f"{key}.bias"]

    def norm(self, key, x):
        return standardised(x, self.eps) * self.weight(key) + self.state[f"{key}.bias"]

    def patches(self, x):
        key = "patch_embed.projection"
        x = F.conv2d(x, self.weight(key), self.state[f"{key}.bias"], stride=self.patch)
        return x.flatten(2).transpose(1, 2)

    def attention(self, i, x):
        batch, count, dim = x.shape
        qkv = self.linear(f"layers.{i}.attn.qkv", x)
        q, k, v = self.core(i, *qkv.split(dim, -1), x)
        q, k, v = (t.view(batch, -1, self.heads, dim // self.heads).transpose(1, 2) for t in (q, k, v))
        weights = (q @ k.mT / math.sqrt(dim // self.heads)).softmax(-1)
        return self.linear(f"layers.{i}.attn.proj", (weights @ v).transpose(1, 2).reshape(batch, count, dim))

    def core(self, i, q, k, v, x):
        """Queries, keys and values ``(B, tokens, C)`` of the attention input x."""
        return q, k, v

    def mlp(self, i, x):
        x = F.gelu(self.linear(f"layers.{i}.ffn.layers.0.0", x))
        return self.linear(f"layers.{i}.ffn.layers.1", x)

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        return x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))

    def encode(self, x):
        for i in range(self.depth):
            x = self.block(i, x)
        return x

    def __call__(self, x):
        x = self.patches(x)
        x = torch.cat([self.state["cls_token"].expand(x.shape[0], -1, -1), x], 1) + self.state["pos_embed"]
        return self.norm("ln1", self.encode(x)).flatten(1)
