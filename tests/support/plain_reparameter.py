"""Re-statements of the methods that change a linear map, with dense matrices and explicit loops."""

import torch

from support.plain_vit import PlainViT

SITES = {"attn.qkv": "qkv", "attn.proj": "proj", "ffn.layers.0.0": "fc1", "ffn.layers.1": "fc2"}


class OnLinears(PlainViT):
    """Says of every linear of a block which block and site it is."""

    name = ""

    def place(self, key):
        """Block and site of a linear's key, ``(None, None)`` outside the blocks."""
        if not key.startswith("layers."):
            return None, None
        _, i, linear = key.split(".", 2)
        return int(i), SITES.get(linear)

    def own(self, i, rest):
        return self.state[f"layers.{i}.peft.{self.name}.{rest}"]


class PlainRepAdapter(OnLinears):
    """``phi(x) = x + s (B (A x + a) + b)``, group by group."""

    name = "repadapter"

    def linear(self, key, x):
        i, site = self.place(key)
        if site in self.options.get("sites", ("qkv", "fc1")):
            x = self.phi(x, lambda rest: self.own(i, f"{site}.{rest}"))
        return super().linear(key, x)

    def phi(self, x, own):
        hidden = x @ own("down.weight").T + own("down.bias")
        parts = []
        for g, codes in enumerate(hidden.chunk(self.options["groups"], -1)):
            parts.append(codes @ own("weight")[g].T)
        return x + self.options["scale"] * (torch.cat(parts, -1) + own("bias"))


class PlainHydra(OnLinears):
    """``z + s (P_u (P_d x + p_d) + p_u) + s (S_u (S_d z + s_d) + s_u)`` on proj and fc2."""

    name = "hydra"

    def linear(self, key, x):
        i, site = self.place(key)
        z = super().linear(key, x)
        if site not in ("proj", "fc2"):
            return z

        def branch(kind, y):
            hidden = y @ self.own(i, f"{site}_{kind}.down.weight").T + self.own(i, f"{site}_{kind}.down.bias")
            return hidden @ self.own(i, f"{site}_{kind}.up.weight").T + self.own(i, f"{site}_{kind}.up.bias")

        s = self.options["scale"]
        return z + s * branch("parallel", x) + s * branch("sequential", z)


class PlainFacTTT(OnLinears):
    """``DW_j = s V S_j U`` slice by slice, added to the weights."""

    name = "fact_tt"

    def weight(self, key):
        weight = super().weight(key)
        i, site = self.place(key)
        if site is None:
            return weight
        weight, dim = weight.clone(), weight.shape[1] if site != "fc2" else weight.shape[0]
        down, up = self.state[f"peft.{self.name}.shared0.down"], self.state[f"peft.{self.name}.shared0.up"]
        for j in range(weight.numel() // dim**2):
            change = self.options["scale"] * up @ self.slice(i, site, j) @ down
            where = slice(j * dim, (j + 1) * dim)
            if site == "fc2":
                weight[:, where] += change
            else:
                weight[where] += change
        return weight

    def slice(self, i, site, j):
        return self.own(i, f"{site}.weight")[j]


class PlainFacTTK(PlainFacTTT):
    """``M_j = sum_t C[:, :, t] P[t, j]``, ``S_j = M_j^T``; for fc2 ``S_j = M_j``; 3 + 1 + 2 + 2 slices a block here."""

    name = "fact_tk"
    first = {"qkv": 0, "proj": 3, "fc1": 4, "fc2": 6}

    def slice(self, i, site, j):
        core, third = self.state[f"peft.{self.name}.shared0.core"], self.state[f"peft.{self.name}.shared0.third"]
        column = 8 * i + self.first[site] + j
        m = sum(core[:, :, t] * third[t, column] for t in range(len(third)))
        return m if site == "fc2" else m.T


class PlainOfficialTK(PlainFacTTK):
    """``S_j`` of fc1 and fc2 are the row groups of ``C x_3 P`` (r, r, 2) laid out as (r, 2 r), entry by entry."""

    def slice(self, i, site, j):
        if site in ("qkv", "proj"):
            return super().slice(i, site, j)
        core, third = self.state[f"peft.{self.name}.shared0.core"], self.state[f"peft.{self.name}.shared0.third"]
        r, first = len(third), 8 * i + self.first[site]
        both = [sum(core[:, :, t] * third[t, first + k] for t in range(r)) for k in range(2)]
        m = torch.empty(r, r, dtype=core.dtype)
        for a in range(r):
            row = [both[k][a, b] for b in range(r) for k in range(2)]
            m[a] = torch.stack(row[j * r : (j + 1) * r])
        return m if site == "fc2" else m.T


class PlainKronA(OnLinears):
    """``W + s (A kron B)`` in the rows of the targets."""

    name = "krona"

    def weight(self, key):
        weight = super().weight(key)
        i, site = self.place(key)
        if site != "qkv":
            return weight
        weight, dim = weight.clone(), weight.shape[1]
        for target in self.options["targets"]:
            first = "qkv".index(target) * dim
            change = torch.kron(self.own(i, f"qkv.left.{target}"), self.own(i, f"qkv.right.{target}"))
            weight[first : first + dim] += self.options["scale"] * change
        return weight


class PlainKAdaptation(OnLinears):
    """``q + c x H_q + b``, ``v + c x H_v + b``, ``H = sum_i (a_i b_i) kron (l_i r_i)``."""

    name = "kadaptation"

    def linear(self, key, x):
        i, site = self.place(key)
        y = super().linear(key, x)
        if site != "qkv":
            return y
        thirds = list(y.chunk(3, -1))
        for which, third in ((0, 0), (1, 2)):
            h = 0
            for t in range(self.options["terms"]):
                column = self.state[f"peft.{self.name}.shared.column"][which, t]
                row = self.state[f"peft.{self.name}.shared.row"][which, t]
                h = h + torch.kron(column @ row, self.own(i, "qkv.left")[which, t] @ self.own(i, "qkv.right")[which, t])
            thirds[third] = thirds[third] + self.options["scale"] * x @ h + self.own(i, "qkv.bias")
        return torch.cat(thirds, -1)


class PlainARC(OnLinears):
    """``h + (h (E * lambda)) E^T + beta`` before qkv and fc1."""

    name = "arc"

    def linear(self, key, x):
        i, site = self.place(key)
        if site in ("qkv", "fc1"):
            shared = self.state[f"peft.{self.name}.{site}0.weight"]
            matrix = shared @ torch.diag(self.own(i, f"{site}.scale")) @ shared.T
            x = x + x @ matrix + self.own(i, f"{site}.bias")
        return super().linear(key, x)


class PlainGPS(OnLinears):
    """Entry by entry ``W[o, index[o, k]] += delta[o, k]``, in the patch embedding too."""

    name = "gps"

    def weight(self, key):
        weight = super().weight(key)
        i, site = self.place(key)
        if site is None and key != "patch_embed.projection":
            return weight
        prefix = f"peft.{self.name}.patch_embed" if site is None else f"layers.{i}.peft.{self.name}.{site}"
        rows = weight.flatten(1).clone()
        index, delta = self.state[f"{prefix}.index"], self.state[f"{prefix}.delta"]
        for o in range(len(rows)):
            for k in range(index.shape[1]):
                rows[o, index[o, k]] += delta[o, k]
        return rows.view(weight.shape)


class PlainGammas(OnLinears):
    """``gamma (W x + b)`` on every linear of a block."""

    name = "difffit"

    def linear(self, key, x):
        i, site = self.place(key)
        y = super().linear(key, x)
        return y if site is None else self.own(i, f"{site}.weight") * y


class PlainDiffFit(PlainViT):
    """``gamma_1 * MHSA``, ``gamma_2 * MLP``."""

    def attention(self, i, x):
        return self.state[f"layers.{i}.peft.difffit.attn.weight"] * super().attention(i, x)

    def mlp(self, i, x):
        return self.state[f"layers.{i}.peft.difffit.mlp.weight"] * super().mlp(i, x)


REP = {"bottleneck": 8, "scale": 0.7, "drop": 0.0}
#: Method, its options, its re-statement, and whether DropPath acts in training (None: its batch norm reads the batch).
CASES = {
    "repadapter": ("RepAdapter", {**REP, "groups": 2}, PlainRepAdapter, True),
    "repadapter-one-group": ("RepAdapter", {**REP, "groups": 1}, PlainRepAdapter, True),
    "hydra": ("Hydra", {"rank": 3, "scale": 0.7, "drop": 0.0}, PlainHydra, True),
    "fact-tt": ("FacT-TT", {"rank": 4, "scale": 0.7, "drop": 0.0}, PlainFacTTT, True),
    "fact-tk": ("FacT-TK", {"rank": 4, "scale": 0.7, "drop": 0.0}, PlainFacTTK, True),
    "fact-tk-official": (
        "FacT-TK",
        {"rank": 4, "scale": 0.7, "drop": 0.0, "layout": "official"},
        PlainOfficialTK,
        True,
    ),
    "krona": ("KronA", {"size": 16, "scale": 0.7, "targets": ("q", "v")}, PlainKronA, True),
    "krona-all": ("KronA", {"size": 4, "scale": 0.7, "targets": ("k", "q", "v")}, PlainKronA, True),
    "kadaptation": ("KAdaptation", {"terms": 8, "scale": 2.0, "drop": 0.0}, PlainKAdaptation, True),
    "arc": ("ARC", {"bottleneck": 8, "drop": 0.0}, PlainARC, True),
    "gps": ("GPS", {"entries": 3}, PlainGPS, True),
    "difffit": ("DiffFit", {}, PlainDiffFit, True),
    "difffit-linears": ("DiffFit", {"gammas": "linears"}, PlainGammas, True),
    "partial": ("PartialK", {}, PlainViT, True),
    "blocktune": ("BlockTune", {}, PlainViT, True),
    "attentiontune": ("AttentionTune", {}, PlainViT, True),
    "mlptune": ("MLPTune", {}, PlainViT, True),
}
