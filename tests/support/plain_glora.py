"""A re-statement of GLoRA, number by number."""

import torch

from support.plain_reparameter import OnLinears

ORDER = ("qkv", "proj", "fc1", "fc2")


class PlainGLoRA(OnLinears):
    """``W[o, i] (1 + A[o, i]) + B[o, i]``, ``b[o] (1 + D[o]) + E[o] + sum_i W[o, i] C[i]``."""

    name = "glora"

    def filled(self, i, site, part, form, rows, columns):
        """One of A to E as a whole matrix."""
        if form == "n":
            return torch.zeros(rows, columns, dtype=torch.float64)
        if part in "DE":
            return self.own(i, f"{site}.shift.{part}")[:, None].expand(rows, columns)
        down = self.own(i, f"{site}.down.{part}")
        if form != "l":  # one number a row, or one for all
            return down.expand(rows, columns)
        up = self.own(i, f"{site}.up.{part}")
        return sum(torch.outer(down[:, k], up[k]) for k in range(len(up)))

    def linear(self, key, x):
        i, site = self.place(key)
        if site is None:
            return super().linear(key, x)
        weight, bias = self.state[f"{key}.weight"], self.state[f"{key}.bias"]
        paths = self.options["paths"]
        word = paths[4 * i + ORDER.index(site)] if len(paths) > 1 else paths[0]
        rows, columns = weight.shape
        a, b = (self.filled(i, site, part, word["AB".index(part)], rows, columns) for part in "AB")
        c = self.filled(i, site, "C", word[2], columns, 1)[:, 0]
        d, e = (self.filled(i, site, part, word["ABCDE".index(part)], rows, 1)[:, 0] for part in "DE")
        shift = torch.stack([(weight[o] * c).sum() for o in range(rows)])
        return x @ (weight * (1 + a) + b).T + bias * (1 + d) + e + shift


PATHS = ("lvlvc", "vlvcv", "cclnn", "nnnvv", "lnvcn", "vcnnv", "cvlvn", "nlvcc", "llnnn", "vvvvv", "ccncc", "lcvnv")
#: As in ``plain_reparameter``.
CASES = {
    "glora": ("GLoRA", {"rank": 3, "paths": ("lllvv",)}, PlainGLoRA, True),
    "glora-forms": ("GLoRA", {"rank": 2, "paths": PATHS}, PlainGLoRA, True),
}
