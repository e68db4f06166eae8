"""Re-statements of the methods that rescale weights, with dense matrices and explicit loops."""

import torch

from support.plain_low_rank import THIRDS, OnWeights


class PlainRLRR(OnWeights):
    """``W[o, i] (1 + r_o c_i)``, ``b + f`` on every linear; a scale and shift after patches and norms."""

    name = "rlrr"
    norms = {"ln1": "norm1", "ln2": "norm2"}

    def changed(self, i, site, target, weight):
        row, column = self.own(i, f"{site}.row.{target}"), self.own(i, f"{site}.column.{target}")
        lines = [w * (1 + r * column[0]) for w, r in zip(weight, row, strict=True)]
        return torch.stack(lines)

    def linear(self, key, x):
        y = super().linear(key, x)
        i, site = self.place(key)
        targets = [t for t in (*THIRDS, "qkv", "proj", "fc1", "fc2") if t in self.options["targets"]]
        targets = [t for t in targets if t == site or (site == "qkv" and t in THIRDS)]
        if not targets:
            return y
        shift, y, first = self.own(i, f"{site}.shift"), y.clone(), 0
        width = y.shape[-1] // 3 if site == "qkv" and "qkv" not in targets else y.shape[-1]
        for target in targets:
            place = THIRDS.index(target) * width if target in THIRDS else 0
            y[..., place : place + width] += shift[first : first + width]
            first += width
        return y

    def scaled(self, key, y):
        if key.startswith("layers."):
            _, i, norm = key.split(".")
            key = f"layers.{i}.peft.rlrr.{self.norms[norm]}"
        else:
            key = "peft.rlrr." + {"patch_embed.projection": "patch_embed", "ln1": "norm_0"}[key]
        return self.state[f"{key}.gamma"] * y + self.state[f"{key}.beta"]

    def patches(self, x):
        return self.scaled("patch_embed.projection", super().patches(x))

    def norm(self, key, x):
        return self.scaled(key, super().norm(key, x))


#: As in ``plain_reparameter``.
CASES = {
    "rlrr": ("RLRR", {"targets": ("q", "k", "v", "proj", "fc1", "fc2")}, PlainRLRR, True),
    "rlrr-joint": ("RLRR", {"targets": ("qkv", "fc2")}, PlainRLRR, True),
    "rlrr-some": ("RLRR", {"targets": ("v", "q")}, PlainRLRR, True),
}
