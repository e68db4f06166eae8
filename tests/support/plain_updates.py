"""Re-statements of rotations, sparse and full-rank updates of weights, with dense matrices and explicit loops."""

import torch

from support.plain_low_rank import OnWeights

Q_V = ("q", "v")


def orthogonal(values, size):
    """``(I + Q)(I - Q)^-1`` of what stands above Q's diagonal, entry by entry."""
    q, numbers = torch.zeros(size, size, dtype=values.dtype), iter(values)
    for a in range(size):
        for b in range(a + 1, size):
            q[a, b] = next(numbers)
            q[b, a] = -q[a, b]
    eye = torch.eye(size, dtype=values.dtype)
    return (eye + q) @ torch.inverse(eye - q)


class PlainOFT(OnWeights):
    """``W0 R^T``, block by block of the columns."""

    name = "oft"

    def changed(self, i, site, target, weight):
        size, values = self.options["block"], self.own(i, f"{site}.skew.{target}")
        parts = []
        for j in range(weight.shape[1] // size):
            rotation = orthogonal(values[j if len(values) > 1 else 0], size)
            torch.testing.assert_close(rotation @ rotation.T, torch.eye(size, dtype=weight.dtype))
            parts.append(weight[:, j * size : (j + 1) * size] @ rotation.T)
        return torch.cat(parts, 1)


class PlainBOFT(OnWeights):
    """``diag(s) W0 (F_m ... F_1)^T``, each factor a dense matrix, entry by entry."""

    name = "boft"

    def changed(self, i, site, target, weight):
        size, columns = self.options["block"], weight.shape[1]
        rotation = torch.eye(columns, dtype=weight.dtype)
        for level, values in enumerate(self.own(i, f"{site}.skew.{target}")):
            factor = torch.zeros(columns, columns, dtype=weight.dtype)
            for j in range(columns // size):
                channels = self.channels(level, j, size)
                for a, row in zip(channels, orthogonal(values[j], size), strict=True):
                    for b, entry in zip(channels, row, strict=True):
                        factor[a, b] = entry
            rotation = factor @ rotation
        scale = self.own(i, f"{site}.scale.{target}") if self.options["gains"] else torch.ones(len(weight))
        return scale[:, None].to(weight) * (weight @ rotation.T)

    @staticmethod
    def channels(level, j, size):
        """Which channels block j of a factor turns: two pieces of half a block, ``2^level`` pieces apart."""
        half, apart = size // 2, 2**level
        run, k = divmod(j, apart)
        first = (2 * apart * run + k) * half
        return [*range(first, first + half), *range(first + apart * half, first + apart * half + half)]


class PlainRandLoRA(OnWeights):
    """``W0 + s sum_i B_i diag(lambda_i) A diag(gamma_i)``, base by base; transposed where the rows are fewer."""

    name = "randlora"

    def changed(self, i, site, target, weight):
        down, up = (self.state[f"peft.randlora.shared.{part}"] for part in ("down", "up"))
        small, large = sorted(weight.shape)
        change = torch.zeros(large, small, dtype=weight.dtype)
        pairs = zip(self.own(i, f"{site}.left.{target}"), self.own(i, f"{site}.right.{target}"), strict=True)
        for j, (left, right) in enumerate(pairs):
            change += up[j, :large] @ torch.diag(left) @ down[:, :small] @ torch.diag(right)
        return weight + self.scale() * (change.T if weight.shape[1] > weight.shape[0] else change)


class PlainAdaLoRA(OnWeights):
    """``W0 + s sum_i lambda_i p_i q_i``, triplet by triplet."""

    name = "adalora"

    def changed(self, i, site, target, weight):
        left, values, right = (self.own(i, f"{site}.{part}.{target}") for part in ("left", "values", "right"))
        triplets = zip(left.T, values, right, strict=True)
        return weight + self.scale() * sum(value * torch.outer(p, q) for p, value, q in triplets)


class PlainConsolidator(OnWeights):
    """``W0 + G``, ``b0 + b``, entry by entry of each group."""

    name = "consolidator"

    def targets(self, site):
        return [t for t in self.options["targets"] if t == site or (site == "qkv" and t in "qkv")]

    def changed(self, i, site, target, weight):
        groups, weight = self.own(i, f"{target}.weight.{target}"), weight.clone()
        count, rows, inputs = groups.shape
        order = list(range(weight.shape[1]))
        if self.options["shuffle"]:
            order = [group * inputs + a for a in range(inputs) for group in range(count)]
        for j in range(count):
            for a in range(rows):
                for b in range(inputs):
                    weight[j * rows + a, order[j * inputs + b]] += groups[j, a, b]
        return weight

    def linear(self, key, x):
        y, (i, site) = super().linear(key, x), self.place(key)
        for target in () if site is None else self.targets(site):
            bias = self.own(i, f"{target}.bias.{target}")
            first = "qkv".index(target) * len(bias) if site == "qkv" and target != "qkv" else 0
            y[..., first : first + len(bias)] += bias
        return y


class PlainSNELL(OnWeights):
    """``W0 + D |D|`` on the entries of D above the quantile, ``D_ji = 0.1 (|p1_i - q1_j| - |p2_i - q2_j|)``."""

    name = "snell"

    def changed(self, i, site, target, weight):
        inputs, outputs = self.own(i, f"{site}.inputs.{target}"), self.own(i, f"{site}.outputs.{target}")
        distances = [((q[:, None] - p[None]) ** 2).sum(-1).sqrt() for p, q in zip(inputs, outputs, strict=True)]
        kernel = 0.1 * (distances[0] - distances[1])
        if not self.options["sparsity"]:
            return weight + kernel
        least = torch.quantile(kernel.abs().flatten(), self.options["sparsity"])
        large = kernel.abs() > least
        share = large.double().mean() / (1 - self.options["sparsity"])
        assert abs(share - 1) < 0.01
        return weight + torch.where(large, kernel * kernel.abs(), 0.0)


CONNECTED, KERNEL = {"groups": 32, "drop_path": 0.0}, {"rank": 8, "drop": 0.0, "drop_path": 0.0}
#: As in ``plain_reparameter``.
CASES = {
    "oft": ("OFT", {"block": 8, "targets": ("q", "v", "fc1")}, PlainOFT, True),
    "oft-shared": ("OFT", {"block": 16, "shared": True, "targets": ("qkv", "fc2")}, PlainOFT, True),
    "boft": ("BOFT", {"block": 4, "factors": 3, "gains": True, "targets": ("q", "v", "fc2")}, PlainBOFT, True),
    "randlora": ("RandLoRA", {"rank": 24, "alpha": 30.0, "targets": ("q", "v", "fc1", "fc2")}, PlainRandLoRA, True),
    "adalora": ("AdaLoRA", {"rank": 6, "target_rank": 3, "alpha": 3.0, "targets": ("q", "fc2")}, PlainAdaLoRA, True),
    "consolidator": (
        "Consolidator",
        {**CONNECTED, "shuffle": False, "targets": ("qkv", "proj", "fc1", "fc2")},
        PlainConsolidator,
        True,
    ),
    "consolidator-shuffled": (
        "Consolidator",
        {**CONNECTED, "shuffle": True, "targets": ("q", "v", "fc2")},
        PlainConsolidator,
        True,
    ),
    "snell": ("SNELL", {**KERNEL, "sparsity": 0.9, "targets": ("q", "v", "proj", "fc1")}, PlainSNELL, True),
    "snell-dense": ("SNELL", {**KERNEL, "sparsity": 0.0, "targets": ("k", "fc2")}, PlainSNELL, True),
    "boft-rotation": ("BOFT", {"block": 8, "factors": 1, "gains": False, "targets": Q_V}, PlainBOFT, True),
}
