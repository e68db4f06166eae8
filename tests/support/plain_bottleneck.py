"""Re-statements of the bottlenecks that stand somewhere else than in a branch."""

import torch
import torch.nn.functional as F

from support.plain_vit import MAP, PlainViT, standardised


class PlainAdapterPlus(PlainViT):
    """``s (W_up GELU(W_dn x + b_dn) + b_up)`` at the positions that the authors' file has, all outside DropPath.

    ``keep`` is what the adapter's own DropPath leaves, too.
    """

    def adapter(self, i, x, place="mlp"):
        key = f"layers.{i}.peft.adapter_.{place}"
        if self.options.get("norm"):
            x = standardised(x, 1e-6) * self.weight(f"{key}.norm") + self.state[f"{key}.norm.bias"]
        return self.state[f"{key}.scale"] * self.keep * self.linear(f"{key}.up", F.gelu(self.linear(f"{key}.down", x)))

    def block(self, i, x):
        position = self.options["position"]
        a = self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        if position == "houlsby":
            a = a + self.adapter(i, a, "attn")
        y = x + a
        if position == "pre":
            y = y + self.adapter(i, y)
        f = self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", y))
        if position in ("intermediate", "houlsby"):
            f = f + self.adapter(i, f)
        if position == "pfeiffer":  # the input is the whole stream, the skip the branch alone
            f = f + self.adapter(i, y + f)
        out = y + f
        if position == "parallel":
            out = out + self.adapter(i, y)
        return out + self.adapter(i, out) if position == "post" else out


class PlainAdapterBias(PlainViT):
    """``y + alpha(h) v`` on the output y of the MLP's last linear, token by token."""

    def mlp(self, i, x):
        h = F.gelu(self.linear(f"layers.{i}.ffn.layers.0.0", x))
        y = self.linear(f"layers.{i}.ffn.layers.1", h)
        read = y if self.options.get("reads") == "output" else h
        key = f"layers.{i}.peft.adapterbias.shift"
        alpha = f"peft.adapterbias.alpha{read.shape[-1]}" if self.options.get("shared_alpha") else f"{key}.alpha"
        return y + self.linear(alpha, read) * self.state[f"{key}.vector"]


class PlainCoLin(PlainViT):
    """The matrices multiplied out term by term; the class token skips the convolution."""

    def projection(self, key, part, x):
        left, right, bias = (self.state[f"{key}.{part}.{name}"] for name in ("left", "right", "bias"))
        weight = sum(left @ torch.diag(g) @ right for g in self.state[f"{key}.gains"]).T
        return F.linear(x, weight, bias)

    def module(self, key, x):
        y = self.projection(key, "down", x)
        spatial = y[:, 1:].mT.unflatten(2, MAP)
        weight, bias = self.weight(f"{key}.conv"), self.state[f"{key}.conv.bias"]
        filtered = F.conv2d(spatial, weight, bias, padding=1, groups=len(weight))
        s = torch.sigmoid(self.state[f"{key}.mix"]).view(1, -1, 1, 1)
        e = torch.cat([y[:, :1], (s * filtered + (1 - s) * spatial).flatten(2).mT], 1)
        return x + self.projection(key, "up", F.gelu(e))

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        x = self.module(f"layers.{i}.peft.colin.attn", x)
        x = x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        return self.module(f"layers.{i}.peft.colin.mlp", x)


CASES = {
    "colin": ("CoLin", {"bottleneck": 12, "rank": 5, "terms": 3}, PlainCoLin, True),
    "adapterbias": ("AdapterBias", {}, PlainAdapterBias, True),
    "adapterbias-output": ("AdapterBias", {"reads": "output"}, PlainAdapterBias, True),
    "adapterbias-shared": ("AdapterBias", {"shared_alpha": True}, PlainAdapterBias, True),
} | {
    f"adapter+-{position}": ("Adapter+", {"position": position, "bottleneck": 4}, PlainAdapterPlus, True)
    for position in ("post", "pre", "parallel", "intermediate", "houlsby")
}
CASES["adapter+-pfeiffer"] = (
    "Adapter+",
    {"position": "pfeiffer", "bottleneck": 4, "norm": True},
    PlainAdapterPlus,
    True,
)
