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


#: As in ``plain_reparameter``.
CASES = {
    "oft": ("OFT", {"block": 8, "targets": ("q", "v", "fc1")}, PlainOFT, True),
    "oft-shared": ("OFT", {"block": 16, "shared": True, "targets": ("qkv", "fc2")}, PlainOFT, True),
    "boft": ("BOFT", {"block": 4, "factors": 3, "gains": True, "targets": ("q", "v", "fc2")}, PlainBOFT, True),
    "randlora": ("RandLoRA", {"rank": 24, "alpha": 30.0, "targets": ("q", "v", "fc1", "fc2")}, PlainRandLoRA, True),
    "adalora": ("AdaLoRA", {"rank": 6, "target_rank": 3, "alpha": 3.0, "targets": ("q", "fc2")}, PlainAdaLoRA, True),
    "boft-rotation": ("BOFT", {"block": 8, "factors": 1, "gains": False, "targets": Q_V}, PlainBOFT, True),
}
