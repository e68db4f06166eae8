"""Re-statements of the methods with bottlenecks and with a changed stream."""

import torch
import torch.nn.functional as F

from support.plain_vit import MAP, PlainViT


def quick_gelu(x):
    return x / (1 + torch.exp(-1.702 * x))


class PlainConvpass(PlainViT):
    """``x + DP(OP(n)) + s DP(B(n))``; the class token is a map of one pixel with padding around it."""

    def bypass(self, i, place, n):
        key = f"layers.{i}.peft.convpass.{place}"
        hidden = quick_gelu(self.linear(f"{key}.down", n)).mT
        token, spatial = hidden[:, :, :1].unflatten(2, (1, 1)), hidden[:, :, 1:].unflatten(2, MAP)
        convs = [
            F.conv2d(m, self.weight(f"{key}.conv"), self.state[f"{key}.conv.bias"], padding=1) for m in (token, spatial)
        ]
        hidden = torch.cat([m.flatten(2) for m in convs], 2).mT
        return self.linear(f"{key}.up", quick_gelu(hidden))

    def block(self, i, x):
        n = self.norm(f"layers.{i}.ln1", x)
        x = x + self.keep * self.attention(i, n) + self.options["scale"] * self.keep * self.bypass(i, "attn", n)
        n = self.norm(f"layers.{i}.ln2", x)
        return x + self.keep * self.mlp(i, n) + self.options["scale"] * self.keep * self.bypass(i, "mlp", n)


def synthesised(state, key, x):
    """``x W^T + b`` with ``W = (sum_i P_i K_i Q_i)^T``."""
    left, right = (state[f"{key}.{part}"] for part in ("left", "right"))
    # W_up has K of its own, or that of W_dn.
    kernel = state.get(f"{key}.kernel", state[f"{key.rpartition('.')[0]}.down.kernel"])
    weight = sum(left[i] @ kernel[i] @ right[i] for i in range(len(left))).T
    return x @ weight.T + state[f"{key}.bias"]


class PlainLoRand(PlainViT):
    """``A(y) = y + W_up GELU(W_dn y + b) + b'`` on what DropPath leaves of a branch."""

    def adapter(self, i, place, y):
        key = f"layers.{i}.peft.lorand.{place}"
        return y + synthesised(self.state, f"{key}.up", F.gelu(synthesised(self.state, f"{key}.down", y)))

    def block(self, i, x):
        x = x + self.adapter(i, "attn", self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x)))
        return x + self.adapter(i, "mlp", self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x)))


class PlainSNF(PlainViT):
    """``NF(x) + DP(OP)``."""

    def flow(self, i, place, z):
        own = {k: self.state.get(f"layers.{i}.peft.snf.{place}.{k}") for k in ("shift", "log_scale")}
        z = own["shift"] + torch.exp(own["log_scale"]) * z
        for step in range(self.options["steps"]):
            u, w, c = (self.state[f"layers.{i}.peft.snf.{place}.{k}"][step] for k in ("direction", "weight", "offset"))
            z = z + torch.tanh((z * w).sum(-1, keepdim=True) + c) * u
        return z

    def block(self, i, x):
        x = self.flow(i, "attn", x) + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        return self.flow(i, "mlp", x) + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))


class PlainSCT(PlainViT):
    """Channel by channel on S: ``x + s (A x_S + b)``, or ``s x + A x_S + b``."""

    def mix(self, i, part, x, offset=0):
        key = f"layers.{i}.peft.sct.salient"
        chosen = [int(c) + offset for c in self.state[f"{key}.index_{part}"]]
        weight, bias = self.weight(f"{key}.mix.{part}"), self.state[f"{key}.mix.{part}.bias"]
        out, s = x.clone(), self.options["scale"]
        for row, channel in enumerate(chosen):
            mixed = sum(weight[row, column] * x[..., c] for column, c in enumerate(chosen)) + bias[row]
            if self.options["form"] == "add":
                out[..., channel] = x[..., channel] + s * mixed
            else:
                out[..., channel] = s * x[..., channel] + mixed
        return out

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        if self.options["variant"] == "attn":
            x = self.mix(i, "x", x)
        return x + self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))

    def mlp(self, i, x):
        y = super().mlp(i, x)
        return self.mix(i, "x", y) if self.options["variant"] == "mlp" else y

    def linear(self, key, x):
        y = super().linear(key, x)
        if self.options["variant"] == "qkv" and key.endswith("attn.qkv"):
            i = int(key.split(".")[1])
            y = self.mix(i, "v", self.mix(i, "q", y), offset=2 * x.shape[-1])
        return y


class PlainDyT(PlainViT):
    """``x + m DP(MLP(LN2 x)) + s Adapter(x)``, ``m = [sigmoid((w^T x + c) / tau) > 1/2]``, 1 for the class token."""

    def block(self, i, x):
        x = x + self.keep * self.attention(i, self.norm(f"layers.{i}.ln1", x))
        key = f"layers.{i}.peft.dyt"
        mask = (torch.sigmoid(self.linear(f"{key}.dispatcher.score", x) / 5.0) > 0.5).to(x.dtype)
        mask[:, 0] = 1
        adapter = self.linear(f"{key}.mlp.up", F.relu(self.linear(f"{key}.mlp.down", x)))
        out = x + mask * self.keep * self.mlp(i, self.norm(f"layers.{i}.ln2", x))
        return out + self.options["scale"] * adapter


SCT = {"channels": 5, "scale": 0.7}
CASES = {
    "convpass": ("Convpass", {"bottleneck": 4, "scale": 0.7, "drop": 0.0}, PlainConvpass, True),
    "lorand": ("LoRand", {"alpha": 3, "beta": 4, "reduction": 4}, PlainLoRand, True),
    "lorand-two-kernels": (
        "LoRand",
        {"alpha": 3, "beta": 4, "reduction": 4, "shared_kernel": False},
        PlainLoRand,
        True,
    ),
    "snf": ("SNF", {"steps": 2}, PlainSNF, True),
    "snf-affine": ("SNF", {"steps": 0}, PlainSNF, True),
    "sct": ("SCT", {**SCT, "variant": "attn", "form": "add"}, PlainSCT, True),
    "sct-scale": ("SCT", {**SCT, "variant": "mlp", "form": "scale"}, PlainSCT, True),
    "sct-qkv": ("SCT", {**SCT, "variant": "qkv", "form": "add"}, PlainSCT, True),
    "dyt": ("DyT", {"bottleneck": 4, "scale": 0.7, "drop": 0.0}, PlainDyT, True),
}
