"""VQT: visual query tuning."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.algorithms.prompt.vpt import prompt_bound
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.block_forward import QKV
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

COMBINATIONS = ("concat", "mean", "weighted")


class StreamKeys(Stateless):
    """Keeps keys and values of the stream, and gives them to the queries that run through the block next."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = f"{key}.keys"

    def forward(self, qkv: QKV, flow: Flow) -> QKV:
        kept = flow.state.setdefault(self.key, {})
        if flow.index in kept:
            k, v = kept[flow.index]
            return qkv._replace(k=k, v=v)
        kept[flow.index] = (qkv.k, qkv.v)
        return qkv


class Queries(nn.Module):
    """Runs trained tokens ``(n, dim)`` through a block behind the stream, which goes on untouched."""

    def __init__(self, key: str, host: Host, block: Block, length: int, bound: float, drop: float) -> None:
        super().__init__()
        self.key, self.host, self.bound = key, host, bound
        self.block = (block.module,)  # in a tuple: not registered a second time
        self.weight = nn.Parameter(torch.empty(length, block.dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform in (-bound, bound)."""
        nn.init.uniform_(self.weight, -self.bound, self.bound)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        flow.need_unmasked()
        tokens = self.drop(self.weight.expand(x.shape[0], -1, -1))
        passes = self.host.passes
        recorder, passes.recorder = passes.recorder, None  # who looks at the attention looks at the stream's
        try:
            tokens = self.host.run_base(self.block[0].site_units, tokens)
        finally:
            passes.recorder = recorder
            flow.state[f"{self.key}.keys"].pop(flow.index)
        flow.state.setdefault(self.key, {})[flow.index] = tokens
        return x


class JoinedFeatures(nn.Module):
    """The head's own features and what the queries gave, as one vector, which every token of the output is."""

    weight_decay = False

    def __init__(self, key: str, combine: str, normalise: bool, mean: bool, size: tuple[int, int]) -> None:
        super().__init__()
        self.key, self.combine, self.normalise, self.mean = key, combine, normalise, mean
        self.mix = nn.Parameter(torch.empty(size)) if combine == "weighted" else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sums."""
        if self.mix is not None:
            nn.init.ones_(self.mix)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        own, state = flow.own_prefix, flow.state[self.key]
        parts = [y[:, own:].mean(1) if self.mean else y[:, 0]]
        for number, index in enumerate(sorted(state)):
            tokens = state[index].to(y.dtype)
            if self.combine == "concat":
                parts.append(tokens.flatten(1))
            elif self.combine == "mean":
                parts.append(tokens.mean(1))
            else:
                parts.append((self.mix[number, :, None].to(y.dtype) * tokens).sum(1))
        parts = [F.normalize(part, dim=1) for part in parts] if self.normalise else parts
        return torch.cat(parts, dim=1)[:, None].expand(-1, own + 1, -1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VQT(Method):
    """Beside every block of a frozen ViT run n trained tokens Q_i: they are queries alone, keys and values are those of
    the block's tokens, ``softmax(q(Q_i) K^T / sqrt(d)) V``, and residuals and MLP follow as in the block. They leave
    with the block, and the next has its own. The stream is untouched, so no gradient enters it.

    The head reads ``[class token; outputs of block 1; ...; outputs of block L]``, each of unit length: it has
    ``(L n + 1) D`` inputs, and with them more parameters than the method. Where the head reads a mean, that mean takes
    the place of the class token. The authors' selection of features by the head's weights is not here.

    Args:
        prompt_length: Tokens n; the authors' runs have 1, 10 or 20.
        combine: ``concat`` all n of a block; ``mean`` of them; ``weighted``: their sum with n trained weights a block.
        normalise: Bring the class token's features, and those of each block, to length one.
        drop: Dropout on the tokens.
    """

    prompt_length: int = 1
    combine: str = "concat"
    normalise: bool = True
    drop: float = 0.1

    category = "side"
    paper = (
        "Visual Query Tuning: Towards Effective Usage of Intermediate Representations, CVPR 2023, section unverified"
    )
    space = {"prompt_length": [1, 5, 10, 20], "drop": [0.0, 0.1]}
    memory = "M0"
    base_eval = True
    identity_at_start = False

    def check(self, host: Host) -> None:
        self.need_choice("combine", COMBINATIONS)
        self.need_one_width(host)
        self.need_tokens(host)
        self.need_queries_apart(host)
        self.need_vector(host)

    def out_width(self, host: Host) -> int:
        each = self.prompt_length if self.combine == "concat" else 1
        return host.blocks[0].dim * (1 + len(host.blocks) * each)

    def build(self, host: Host) -> None:
        key = host.method_key
        for block in host.blocks:
            block.place("core", "before", StreamKeys(key), "stream")
            queries = Queries(key, host, block, self.prompt_length, prompt_bound(host), self.drop)
            block.place("block", "after", queries, "queries")
        size = (len(host.blocks), self.prompt_length)
        joined = JoinedFeatures(key, self.combine, self.normalise, host.pools_map, size)
        host.place("norm.0", "after", joined, "joined")

    def count(self, host: Host) -> int:
        numbers = len(host.blocks) * self.prompt_length
        return numbers * host.blocks[0].dim + (numbers if self.combine == "weighted" else 0)
