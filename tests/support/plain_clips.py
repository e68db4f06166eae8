"""ST-Adapter and AIM on the frames of clips, in plain torch functions on :class:`.PlainViT`."""

import torch
import torch.nn.functional as F

from support.plain_vit import PlainViT

FRAMES = 3


def over_time(x):
    """Frames ``(B T, N, C)`` as tokens of one place ``(B N, T, C)``."""
    clips = x.reshape(-1, FRAMES, *x.shape[1:])
    return torch.cat([clip.permute(1, 0, 2) for clip in clips])


def over_places(x, places):
    """The inverse."""
    clips = x.reshape(-1, places, *x.shape[1:])
    return torch.cat([clip.permute(1, 0, 2) for clip in clips])


class PlainSTAdapter(PlainViT):
    """``x + W_up DWConv3d(W_dn x + b_dn) + b_up`` tap by tap; the class token passes by."""

    name = "st_adapter"

    def adapter(self, i, unit, x, hw):
        key = f"layers.{i}.peft.{self.name}.{unit}"
        weight, bias = self.weight(f"{key}.conv"), self.state[f"{key}.conv.bias"]
        maps = self.linear(f"{key}.down", x[:, 1:]).reshape(-1, FRAMES, *hw, weight.shape[0])
        pads = [size // 2 for size in weight.shape[2:]]
        padded = F.pad(maps, [0, 0, pads[2], pads[2], pads[1], pads[1], pads[0], pads[0]])
        out = bias.expand_as(maps)
        for t in range(weight.shape[2]):
            for h in range(weight.shape[3]):
                for w in range(weight.shape[4]):
                    seen = padded[:, t : t + FRAMES, h : h + hw[0], w : w + hw[1]]
                    out = out + weight[:, 0, t, h, w] * seen
        out = F.gelu(out) if self.options["act"] == "gelu" else out
        out = self.linear(f"{key}.up", out).reshape(len(x), -1, x.shape[-1])
        return torch.cat([x[:, :1], x[:, 1:] + out], 1)

    def block(self, i, x):
        where, hw = self.options["where"], self.options["hw"]
        if where != "mlp":
            x = self.adapter(i, "attn", x, hw)
        x = x + self.attention(i, self.norm(f"layers.{i}.ln1", x))
        if where != "attn":
            x = self.adapter(i, "mlp", x, hw)
        return x + self.mlp(i, self.norm(f"layers.{i}.ln2", x))


class PlainAIM(PlainViT):
    """Attention over time by the same weights, adapters behind it, behind attention and beside the MLP."""

    def adapter(self, i, name, x):
        key = f"layers.{i}.peft.aim.{name}"
        return self.linear(f"{key}.up", F.gelu(self.linear(f"{key}.down", x)))

    def encode(self, x):
        table = self.state[next(k for k in self.state if k.endswith("peft.aim.time.table"))]
        return super().encode((x.reshape(-1, FRAMES, *x.shape[1:]) + table[None, :, None]).flatten(0, 1))

    def block(self, i, x):
        n = over_time(self.norm(f"layers.{i}.ln1", x))
        n = n + self.adapter(i, "temporal.into", n) if self.options["temporal"] == 2 else n
        x = x + over_places(self.adapter(i, "temporal.out", self.attention(i, n)), x.shape[1])
        y = self.attention(i, self.norm(f"layers.{i}.ln1", x))
        x = x + y + self.adapter(i, "spatial", y)
        n = self.norm(f"layers.{i}.ln2", x)
        return x + self.mlp(i, n) + self.options["scale"] * self.adapter(i, "joint", n)
