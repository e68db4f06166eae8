"""Re-statements of the methods that put tokens into the stream, beyond VPT itself."""

import math

import torch
import torch.nn.functional as F

from support.plain_vit import PlainViT


class PlainVFPT(PlainViT):
    """The first ``floor(alpha p)`` prompts as ``C_m P C_D - S_m P S_D``, cosines and sines written out."""

    def prompts(self, i):
        prompts = self.weight(f"layers.{i}.peft.vfpt.prompts")
        first = math.floor(self.options["alpha"] * len(prompts))
        cos_m, sin_m = self.waves(first, self.options["axes"] != "hidden")
        cos_d, sin_d = self.waves(prompts.shape[1], self.options["axes"] != "sequence")
        changed = cos_m @ prompts[:first] @ cos_d - sin_m @ prompts[:first] @ sin_d
        return torch.cat([changed, prompts[first:]])

    def waves(self, count, used):
        if not used:
            return torch.eye(count, dtype=torch.float64), torch.zeros(count, count, dtype=torch.float64)
        steps = torch.arange(count, dtype=torch.float64)
        angles = 2 * math.pi / count * steps[:, None] * steps
        root = math.sqrt(count) if self.options["norm"] == "ortho" else 1
        return angles.cos() / root, angles.sin() / root

    def block(self, i, x):
        prompts = self.prompts(i).expand(len(x), -1, -1)
        x = super().block(i, torch.cat([x[:, :1], prompts, x[:, 1:]], 1))
        return torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)


class PlainE2VPT(PlainViT):
    """Prompts times the masks of prompt and channel, and the same rows in front of keys and values."""

    def prompts(self, i):
        prompts, tokens = self.weight(f"layers.{i}.peft.e2vpt.prompts").clone(), self.state["peft.e2vpt.masks.tokens"]
        pieces = self.state["peft.e2vpt.masks.pieces"]
        for token in range(len(prompts)):
            for channel in range(prompts.shape[1]):
                prompts[token, channel] *= tokens[token] * pieces[token, channel % pieces.shape[1]]
        return prompts

    def block(self, i, x):
        prompts = self.prompts(i).expand(len(x), -1, -1)
        x = super().block(i, torch.cat([x[:, :1], prompts, x[:, 1:]], 1))
        return torch.cat([x[:, :1], x[:, 1 + prompts.shape[1] :]], 1)

    def core(self, i, q, k, v, x):
        key = f"layers.{i}.peft.e2vpt.rows"
        keys, values = self.weight(key), self.state.get(f"{key}.value", self.weight(key))
        keys, values = (rows.expand(len(x), -1, -1) for rows in (keys, values))
        return q, torch.cat([keys, k], 1), torch.cat([values, v], 1)


class PlainVP(PlainViT):
    """A frame of trained pixels on the image."""

    name = "vp"

    def band(self, key):
        return self.state[f"peft.{self.name}.{self.place}.{key}"]

    place = "frame"

    def changed(self, x):
        p, x = self.options["pad"], x.clone()
        x[:, :, :p] += self.band("top")
        x[:, :, -p:] += self.band("bottom")
        x[:, :, p:-p, :p] += self.band("left")
        x[:, :, p:-p, -p:] += self.band("right")
        return x

    def __call__(self, x):
        return super().__call__(self.changed(x))


class PlainEVP(PlainVP):
    """The same around the image made smaller."""

    name, place = "evp", "border"

    def changed(self, x):
        p, whole = self.options["pad"], torch.zeros_like(x)
        size = [extent - 2 * p for extent in x.shape[2:]]
        whole[:, :, p:-p, p:-p] = F.interpolate(x, size, mode="bicubic", antialias=True)
        return super().changed(whole)


class PlainILMVP(PlainEVP):
    """Borders of colours."""

    name = "ilm_vp"

    def band(self, key):
        mean, std = (torch.tensor(self.options[name], dtype=torch.float64).view(-1, 1, 1) for name in ("mean", "std"))
        return (255 / (1 + torch.exp(-super().band(key))) - mean) / std


class PlainCVPT(PlainViT):
    """Cross-attention to the prompts with the block's own weights, head by head."""

    def crossed(self, i, x):
        dim, width = x.shape[-1], x.shape[-1] // self.heads
        weight, bias = self.weight(f"layers.{i}.attn.qkv"), self.state[f"layers.{i}.attn.qkv.bias"]
        prompts, outs = self.weight(f"layers.{i}.peft.cvpt.prompts"), []
        q = x @ weight[:dim].T + bias[:dim]
        k, v = (prompts @ weight[dim:].T + bias[dim:]).chunk(2, -1)
        for h in range(self.heads):
            cut = slice(h * width, (h + 1) * width)
            outs.append((q[..., cut] @ k[:, cut].T / math.sqrt(width)).softmax(-1) @ v[:, cut])
        return x + self.linear(f"layers.{i}.attn.proj", torch.cat(outs, -1))

    def block(self, i, x):
        place = self.options["place"]
        x = self.crossed(i, x) if place == "before" else x
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        x = self.crossed(i, x) if place == "middle" else x
        x = x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        return self.crossed(i, x) if place == "after" else x


VFPT = {"prompt_length": 5, "alpha": 0.7, "axes": "all", "norm": "none"}
PIXELS = {"pad": 3, "image_size": (32, 24)}
CASES = {
    "vfpt": ("VFPT", VFPT, PlainVFPT, False),
    "vfpt-ortho": ("VFPT", {**VFPT, "alpha": 1.0, "norm": "ortho"}, PlainVFPT, False),
    "vfpt-sequence": ("VFPT", {**VFPT, "axes": "sequence"}, PlainVFPT, False),
    "vfpt-hidden": ("VFPT", {**VFPT, "axes": "hidden"}, PlainVFPT, False),
    "cvpt": ("CVPT", {"prompt_length": 3, "place": "before"}, PlainCVPT, True),
    "cvpt-middle": ("CVPT", {"prompt_length": 3, "place": "middle"}, PlainCVPT, True),
    "cvpt-after": ("CVPT", {"prompt_length": 3, "place": "after"}, PlainCVPT, True),
    "vp": ("VP", PIXELS, PlainVP, False),
    "evp": ("EVP", PIXELS, PlainEVP, False),
    "ilm-vp": ("ILM-VP", {**PIXELS, "mean": (120.0, 110.0, 100.0), "std": (50.0,)}, PlainILMVP, False),
    "e2vpt": ("E2VPT", {"prompt_length": 3, "prefix_length": 2, "pieces": 5}, PlainE2VPT, False),
    "e2vpt-pruned": (
        "E2VPT",
        {"prompt_length": 3, "prefix_length": 2, "shared": False, "zero_tokens": (1,), "zero_pieces": (0, 5, 40)},
        PlainE2VPT,
        False,
    ),
}
