"""Re-statements of LoRA's relatives, with dense matrices and explicit loops over rows."""

import math

import torch

from support.plain_reparameter import OnLinears

THIRDS = ("q", "k", "v")


class OnWeights(OnLinears):
    """Every target's rows of a linear's weight become :meth:`changed`."""

    def weight(self, key):
        weight = super().weight(key)
        i, site = self.place(key)
        weight = weight.clone()
        for target in self.options["targets"]:
            if site == target or (site == "qkv" and target in THIRDS):
                count = len(weight) // 3 if target in THIRDS else len(weight)
                first = THIRDS.index(target) * count if target in THIRDS else 0
                weight[first : first + count] = self.changed(i, site, target, weight[first : first + count])
        return weight

    def changed(self, i, site, target, weight):
        down, up = self.own(i, f"{site}.down.{target}"), self.own(i, f"{site}.up.{target}")
        return weight + self.scale() * up @ down

    def scale(self):
        return (self.options["alpha"] or self.options["rank"]) / self.options["rank"]


class PlainDoRA(OnWeights):
    """Row by row ``m V / |V|``, ``V = W0 + s B A``; the bias stays."""

    name = "dora"

    def changed(self, i, site, target, weight):
        changed = super().changed(i, site, target, weight)
        magnitude = self.own(i, f"{site}_magnitude.magnitude.{target}")
        return torch.stack([m * row / (row * row).sum().sqrt() for m, row in zip(magnitude, changed, strict=True)])


class PlainLoRAmul(OnWeights):
    """Entry by entry ``W (1 + B A)``, and ``b (1 + d) + W p`` with the prompt ``p = p1 p2``."""

    name = "loramul"

    def changed(self, i, site, target, weight):
        down, up = self.own(i, f"{site}.down.{target}"), self.own(i, f"{site}.up.{target}")
        rows = [w * (1 + sum(u[k] * down[k] for k in range(len(down)))) for w, u in zip(weight, up, strict=True)]
        return torch.stack(rows)

    def linear(self, key, x):
        y = super().linear(key, x).clone()
        i, site = self.place(key)
        for target in self.options["targets"]:
            if site == target or (site == "qkv" and target in THIRDS):
                rows = y.shape[-1] // 3 if target in THIRDS else y.shape[-1]
                first = THIRDS.index(target) * rows if target in THIRDS else 0
                weight = self.state[f"{key}.weight"][first : first + rows]
                bias = self.state[f"{key}.bias"][first : first + rows]
                one, two = self.own(i, f"{site}.prompt_up.{target}"), self.own(i, f"{site}.prompt_down.{target}")
                y[..., first : first + rows] += weight @ (one @ two)[:, 0]
                y[..., first : first + rows] += bias * self.own(i, f"{site}.bias.{target}")
        return y


class PlainRsLoRA(OnWeights):
    """``W0 + alpha / sqrt r  B A``."""

    name = "rslora"

    def scale(self):
        return self.options["alpha"] / self.options["rank"] ** 0.5


class PlainLoRAPlus(OnWeights):
    """LoRA."""

    name = "lora_"


class PlainLoRAFA(OnWeights):
    """LoRA."""

    name = "lora_fa"


class PlainPiSSA(OnWeights):
    """``(W0 - s B0 A0) + s B A``, the residual first."""

    name = "pissa"

    def changed(self, i, site, target, weight):
        residual = weight - self.scale() * self.first(weight)
        return super().changed(i, site, target, residual)

    def first(self, weight):
        """The start ``B0 A0`` with ``s B0 A0`` the best approximation of rank r, by the eigenvectors of ``W W^T``."""
        rank, (_, vectors) = self.options["rank"], torch.linalg.eigh(weight @ weight.T)
        left = vectors[:, -rank:]
        return left @ left.T @ weight / self.scale()


class PlainOLoRA(PlainPiSSA):
    """The same with B0 A0 of the first r columns of W, made orthonormal one after another."""

    name = "olora"

    def first(self, weight):
        columns = []
        for column in weight.T[: self.options["rank"]]:
            for other in columns:
                column = column - (other @ column) * other
            columns.append(column / (column * column).sum().sqrt())
        left = torch.stack(columns, 1)
        return left @ left.T @ weight


class PlainMLAE(OnWeights):
    """``W0 + sum_k lambda_k b_k a_k^T``, expert by expert."""

    name = "mlae"

    def changed(self, i, site, target, weight):
        down, up, own = (self.own(i, f"{site}.{part}.{target}") for part in ("down", "up", "weight"))
        return weight + sum(own[k] * torch.outer(up[:, k], down[k]) for k in range(len(own)))


class PlainVeRA(OnWeights):
    """``W0 + diag(b) B diag(d) A`` with the first columns of A and rows of B that fit."""

    name = "vera"

    def changed(self, i, site, target, weight):
        shared = {part: self.state[f"peft.vera.shared.{part}"] for part in ("down", "up")}
        down, up = shared["down"][:, : weight.shape[1]], shared["up"][: len(weight)]
        b, d = self.own(i, f"{site}.b.{target}"), self.own(i, f"{site}.d.{target}")
        return weight + torch.diag(b) @ up @ torch.diag(d) @ down


class PlainIA3(OnLinears):
    """``l_k * k``, ``l_v * v``, ``l_ff * h``."""

    name = "ia3"

    def core(self, i, q, k, v, x):
        return q, k * self.own(i, "qkv.scale.k"), v * self.own(i, "qkv.scale.v")

    def linear(self, key, x):
        i, site = self.place(key)
        return super().linear(key, x * self.own(i, "fc2.scale.ff") if site == "fc2" else x)


class PlainLoHa(OnWeights):
    """``W0 + s (B1 A1) * (B2 A2)``."""

    name = "loha"

    def changed(self, i, site, target, weight):
        one, two = (self.own(i, f"{site}.up{j}.{target}") @ self.own(i, f"{site}.down{j}.{target}") for j in (1, 2))
        return weight + self.scale() * one * two


class PlainLoKr(OnWeights):
    """``W0 + s C kron (B A)``, block by block of the weight."""

    name = "lokr"

    def changed(self, i, site, target, weight):
        left, weight = self.own(i, f"{site}.left.{target}"), weight.clone()
        if f"layers.{i}.peft.lokr.{site}.right.{target}" in self.state:
            right = self.own(i, f"{site}.right.{target}")
        else:
            right = self.own(i, f"{site}.up.{target}") @ self.own(i, f"{site}.down.{target}")
        rows, columns = right.shape
        for a in range(left.shape[0]):
            for b in range(left.shape[1]):
                block = weight[a * rows : (a + 1) * rows, b * columns : (b + 1) * columns]
                block += self.scale() * left[a, b] * right
        return weight


class PlainFourierFT(OnWeights):
    """``W0[p, q] + s / (d1 d2) sum_k c_k cos(2 pi (p u_k / d1 + q w_k / d2))``, frequency by frequency."""

    name = "fourierft"

    def changed(self, i, site, target, weight):
        values, places = self.own(i, f"{site}.values.{target}"), self.own(i, f"{site}.places_{target}")
        (rows, columns), change = weight.shape, torch.zeros_like(weight)
        p, q = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
        for value, place in zip(values, places.tolist(), strict=True):
            u, w = divmod(place, columns)
            change += value * torch.cos(2 * math.pi * (p.double() * u + q.double() * w))
        return weight + self.options["scale"] / (rows * columns) * change


Q_V, ALL = ("q", "v"), ("q", "k", "v", "proj", "fc1", "fc2")
#: As in ``plain_reparameter``.
CASES = {
    "dora": ("DoRA", {"rank": 4, "alpha": 3, "targets": Q_V}, PlainDoRA, True),
    "dora-all": ("DoRA", {"rank": 4, "alpha": None, "targets": ("k", "proj", "fc1", "fc2")}, PlainDoRA, True),
    "loramul": ("LoRAmul", {"rank": 4, "targets": ("qkv", "proj", "fc1", "fc2")}, PlainLoRAmul, True),
    "loramul-some": ("LoRAmul", {"rank": 4, "targets": ("v", "q", "fc1")}, PlainLoRAmul, True),
    "rslora": ("rsLoRA", {"rank": 4, "alpha": 3, "targets": Q_V}, PlainRsLoRA, True),
    "lora-plus": ("LoRA+", {"rank": 4, "alpha": 3, "targets": Q_V}, PlainLoRAPlus, True),
    "lora-fa": ("LoRA-FA", {"rank": 4, "alpha": 3, "targets": Q_V}, PlainLoRAFA, True),
    "pissa": ("PiSSA", {"rank": 4, "alpha": 2, "targets": ALL}, PlainPiSSA, True),
    "olora": ("OLoRA", {"rank": 4, "alpha": 2, "targets": Q_V}, PlainOLoRA, True),
    "mlae": ("MLAE", {"rank": 4, "expert_drop": 0.0, "targets": ("k", "v", "fc1")}, PlainMLAE, True),
    "vera": ("VeRA", {"rank": 8, "targets": ("q", "v", "fc1", "fc2")}, PlainVeRA, True),
    "ia3": ("IA3", {}, PlainIA3, True),
    "loha": ("LoHa", {"rank": 4, "alpha": 3, "targets": ("q", "v", "fc1")}, PlainLoHa, True),
    "lokr": ("LoKr", {"rank": 3, "alpha": 2, "targets": ("k", "v", "fc2")}, PlainLoKr, True),
    "lokr-whole": ("LoKr", {"rank": 8, "alpha": 2, "factor": 4, "targets": ("qkv",)}, PlainLoKr, True),
    "fourier-ft": ("FourierFT", {"frequencies": 50, "scale": 30.0, "targets": ("q", "v", "fc1")}, PlainFourierFT, True),
}
