"""Re-statements of SPT: the budget is given away number by number, on a state dict, by explicit loops."""

import torch.nn.functional as F

from support.plain_vit import PlainViT

LINEARS = {"attn.proj": "proj", "ffn.layers.0.0": "fc1", "ffn.layers.1": "fc2"}


def parts(state, depth):
    """Key, first and last row of every matrix and vector, in the order of the budget."""
    found = []
    for i in range(depth):
        dim = state[f"layers.{i}.attn.proj.weight"].shape[0]
        thirds = [(f"layers.{i}.attn.qkv", j * dim, (j + 1) * dim) for j in range(3)]
        others = [(f"layers.{i}.{name}", 0, len(state[f"layers.{i}.{name}.weight"])) for name in LINEARS]
        for key, first, last in thirds + others:
            found += [(f"{key}.weight", first, last), (f"{key}.bias", first, last)]
    norms = [f"layers.{i}.ln{j}" for i in range(depth) for j in (1, 2)] + ["ln1"]
    return found + [(f"{key}.{p}", 0, len(state[f"{key}.{p}"])) for key in norms for p in ("weight", "bias")]


class PlainSPT(PlainViT):
    """``W0 + delta`` entry by entry."""

    def __init__(self, state, keep=1.0, **options):
        super().__init__({k: v.clone() for k, v in state.items()}, keep, **options)
        own = f"peft.{self.name}.budget"
        values, index, flags = (state[f"{own}.{part}"] for part in ("values", "index", "structured"))
        self.modules, used, begins, total = {}, 0, [], 0
        for flag, (key, first, last) in zip(flags.tolist(), parts(state, self.depth), strict=True):
            begins.append(total)
            total += self.state[key][first:last].numel()
            if flag:
                size = self.size(key, first, last)
                self.modules[key.removesuffix(".weight"), first, last] = values[used : used + size]
                used += size
        assert (index[:used] == -1).all()
        for value, place in zip(values[used:], index[used:].tolist(), strict=True):
            part = max(n for n, begin in enumerate(begins) if begin <= place)
            key, first, last = parts(state, self.depth)[part]
            self.state[key][first:last].view(-1)[place - begins[part]] += value


class PlainSPTLoRA(PlainSPT):
    """``W0 + B A``."""

    name = "spt_lora"

    def size(self, key, first, last):
        return self.options["rank"] * (self.state[key].shape[1] + last - first)

    def weight(self, key):
        weight, rank = super().weight(key).clone(), self.options["rank"]
        for (own, first, last), module in self.modules.items():
            if own == key:
                cut = rank * weight.shape[1]
                weight[first:last] += module[cut:].view(-1, rank) @ module[:cut].view(rank, -1)
        return weight


class PlainSPTAdapter(PlainSPT):
    """``y + W_up GELU(W_dn y + b_dn) + b_up``, of proj's input beside proj."""

    name = "spt_adapter"

    def size(self, key, first, last):
        reads = self.state[key].shape[1] if "proj" in key else last - first
        return self.options["rank"] * (reads + last - first) + self.options["rank"] + last - first

    def linear(self, key, x):
        y, rank = super().linear(key, x), self.options["rank"]
        out = y.clone()
        for (own, first, last), module in self.modules.items():
            if own == key:
                read, rows = x if "proj" in key else y[..., first:last], last - first
                down, bias, up, shift = module.split([rank * read.shape[-1], rank, rows * rank, rows])
                hidden = F.gelu(read @ down.view(rank, -1).T + bias)
                out[..., first:last] += hidden @ up.view(rows, rank).T + shift
        return out


#: As in ``plain_reparameter``; what is chosen by data is in test_spt.
CASES = {
    "spt-lora": ("SPT-LoRA", {"budget": 900, "rank": 2}, PlainSPTLoRA, True),
    "spt-adapter": ("SPT-Adapter", {"budget": 900, "rank": 2}, PlainSPTAdapter, True),
}
