"""Prefix tuning, direct and reparametrised."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import QKV
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


class Prefix(nn.Module):
    """Puts ``l`` trained keys and values, split into heads, before those of the tokens."""

    weight_decay = False

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.key = nn.Parameter(torch.empty(length, dim))
        self.value = nn.Parameter(torch.empty(length, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform as for a tensor ``(1, l, C)``: bound ``sqrt(6 / (l C + C))``."""
        nn.init.xavier_uniform_(self.key.data[None])
        nn.init.xavier_uniform_(self.value.data[None])

    def rows(self) -> tuple[Tensor, Tensor]:
        """``P_k`` and ``P_v``, each ``(l, C)``."""
        return self.key, self.value

    def forward(self, qkv: QKV, flow: Flow) -> QKV:
        batch, heads, _, width = qkv.k.shape

        def join(rows: Tensor, tokens: Tensor) -> Tensor:
            rows = rows.to(tokens.dtype).unflatten(1, (heads, width)).transpose(0, 1)
            return torch.cat((rows.expand(batch, -1, -1, -1), tokens), dim=2)

        key, value = self.rows()
        return qkv._replace(k=join(key, qkv.k), v=join(value, qkv.v))


class ReparametrisedPrefix(Prefix):
    """``[P_k, P_v] = W_2 tanh(W_1 E + b_1) + b_2`` with E (l, C), W_1 (m, C), W_2 (2 C, m)."""

    def __init__(self, length: int, dim: int, hidden: int) -> None:
        nn.Module.__init__(self)
        self.embedding = nn.Embedding(length, dim)
        self.down = nn.Linear(dim, hidden)
        self.up = nn.Linear(hidden, 2 * dim)
        self.kept: tuple[list, tuple[Tensor, Tensor]] | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """torch's own start of embedding and linears."""
        for module in (self.embedding, self.down, self.up):
            module.reset_parameters()

    def rows(self) -> tuple[Tensor, Tensor]:
        """Made anew while a graph is recorded; without one made once, until a parameter changes."""
        if torch.is_grad_enabled():
            return self.make()
        autocast = torch.is_autocast_enabled(self.down.weight.device.type)
        state = [autocast, *((p.data_ptr(), p._version) for p in self.parameters())]
        if self.kept is None or self.kept[0] != state:
            self.kept = (state, self.make())
        return self.kept[1]

    def folded(self) -> dict[str, Tensor]:
        """The direct prefixes that do the same."""
        return dict(zip(("key", "value"), self.make(), strict=True))

    def make(self) -> tuple[Tensor, Tensor]:
        """``P_k`` and ``P_v`` from the embedding."""
        return self.up(torch.tanh(self.down(self.embedding.weight))).chunk(2, dim=1)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class PrefixTuning(Method):
    """``softmax(Q [P_k; K]^T / sqrt(d)) [P_v; V]``: ``l`` trained keys and values in every block's attention.

    In windowed attention every window gets them; they have no position and so neither bias nor mask. The
    reparametrised form is folded into constants where no graph is recorded.

    Args:
        prefix_length: l.
        reparametrised: Make the prefixes from an embedding by two linears with a tanh between.
        hidden: Their inner width m.
    """

    prefix_length: int = 10
    reparametrised: bool = False
    hidden: int = 128

    category = "prefix"
    paper = "Prefix-Tuning: Optimizing Continuous Prompts for Generation, ACL 2021"
    space = {"prefix_length": [5, 10, 20, 50], "reparametrised": [False, True]}
    identity_at_start = False

    def check(self, host: Host) -> None:
        self.need_token_keys(host)
        self.need_key_width(host)

    def build(self, host: Host) -> None:
        for block in host.blocks:
            if self.reparametrised:
                module = ReparametrisedPrefix(self.prefix_length, block.inner, self.hidden)
            else:
                module = Prefix(self.prefix_length, block.inner)
            block.place("core", "before", module, "prefix")

    def folded(self) -> PrefixTuning | None:
        return replace(self, reparametrised=False) if self.reparametrised else None

    def count(self, host: Host) -> int:
        n, m = self.prefix_length, self.hidden
        widths = [block.inner for block in host.blocks]
        if not self.reparametrised:
            return sum(2 * n * c for c in widths)
        return sum(n * c + c * m + m + 2 * m * c + 2 * c for c in widths)
