"""E2VPT: prompts in the stream and in attention's keys and values, pruned and trained again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.prompt.vpt import Prompts, VPTDeep, insert, prompt_bound
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.block_forward import QKV
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.core.contract.search_space import HIGH_LR
from vpeft.core.contract.training import TrainingData
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: So many prompts, and pieces of each, are left at least.
FEWEST_TOKENS, FEWEST_PIECES = 1, 4


class Masks(nn.Module):
    """``token_i * piece_ij`` for every prompt i, one for all blocks; channel c belongs to piece ``j = c mod pieces``.

    Args:
        length: Prompts p.
        pieces: Pieces of each.
        zeros: Prompts, and pieces as ``i * pieces + j``, that are zero for good, the others one; None trains them all.
    """

    weight_decay = False

    def __init__(self, length: int, pieces: int, zeros: tuple[Iterable[int], Iterable[int]] | None) -> None:
        super().__init__()
        self.zeros = zeros
        for name, shape in (("tokens", (length,)), ("pieces", (length, pieces))):
            if zeros is None:
                self.register_parameter(name, nn.Parameter(torch.empty(shape)))
            else:
                self.register_buffer(name, torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones, but for what was pruned."""
        with torch.no_grad():
            for mask, zeros in zip((self.tokens, self.pieces), self.zeros or ((), ()), strict=True):
                mask.fill_(1.0)
                mask.view(-1)[list(zeros)] = 0.0

    def over(self, width: int) -> Tensor:
        """``(p, width)``."""
        times = math.ceil(width / self.pieces.shape[1])
        return self.tokens[:, None] * self.pieces.repeat(1, times)[:, :width]


class MaskedPrompts(Prompts):
    """Prompts times their masks; the dropout comes first."""

    def __init__(self, length: int, dim: int, bound: float, drop: float, masks: Masks) -> None:
        super().__init__(length, dim, bound, drop)
        self.masks = (masks,)  # in a tuple: not registered a second time

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = self.drop(self.weight.expand(x.shape[0], -1, -1)) * self.masks[0].over(self.weight.shape[1])
        return insert(x, tokens.to(x.dtype), flow)


class KeyValuePrompts(nn.Module):
    """Puts n trained rows, split into heads, before the keys and before the values: the same ones, where shared."""

    def __init__(self, length: int, dim: int, heads: int, drop: float, shared: bool) -> None:
        super().__init__()
        self.bound = math.sqrt(6 / (length * (dim // heads)))
        self.weight = nn.Parameter(torch.empty(length, dim))
        self.value = None if shared else nn.Parameter(torch.empty(length, dim))
        self.drop = nn.Dropout(drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-uniform of a tensor ``(heads, n, head width)``: bound ``sqrt(6 / (n * head width))``."""
        for param in self.parameters():
            nn.init.uniform_(param, -self.bound, self.bound)

    def forward(self, qkv: QKV, flow: Flow) -> QKV:
        def join(rows: Tensor, tokens: Tensor) -> Tensor:
            batch, heads, _, width = tokens.shape
            rows = rows.to(tokens.dtype).unflatten(1, (heads, width)).transpose(0, 1).expand(batch, -1, -1, -1)
            return torch.cat((self.drop(rows), tokens), dim=2)

        value = self.weight if self.value is None else self.value
        return qkv._replace(k=join(self.weight, qkv.k), v=join(value, qkv.v))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class E2VPT(VPTDeep):
    """VPT-Deep, and in every block n rows P_kv in front of attention's keys and values after their projection:
    ``softmax(Q [P_kv; K]^T / sqrt(d)) [P_kv; V]``, one tensor for both. Prompt i enters as ``t_i (m_i * P_i)``: masks,
    trained from one and shared by all blocks, for the prompt and for each of its pieces (channel c belongs to piece
    ``c mod pieces``).

    After training, prompts and pieces of least importance are set to zero for good, and all else is trained again from
    its start with masks of one: ``vpeft rewind CONFIG`` does it all. Importance is the gradient of the cross-entropy
    with respect to the mask over the training set. The published VTAB-1k figures tune p, n and both fractions by task.

    Args:
        prompt_length: Prompts p.
        prefix_length: Rows n.
        pieces: Of each prompt.
        shared: One tensor for keys and values; False trains two.
        drop: Dropout on prompts and rows.
        prune_tokens: Fraction of the prompts that is pruned; one is left. The authors try 0.1 to 0.9.
        prune_pieces: Fraction of the pieces of each prompt; four are left (of fewer all).
        importance: ``absolute`` is the gradient's size. ``official`` is the authors' code: the gradient with its sign,
            lowest first, and for pieces that of their prompt, so that the first pieces of each are pruned.
        zero_tokens: What was pruned, by index: the masks are fixed then. None trains them.
        zero_pieces: Likewise, as ``prompt * pieces + piece``.
        pool_prompts: As of VPTDeep.
    """

    prompt_length: int = 5
    prefix_length: int = 5
    pieces: int = 16
    shared: bool = True
    prune_tokens: float = 0.5
    prune_pieces: float = 0.5
    importance: str = "absolute"
    zero_tokens: tuple[int, ...] | None = None
    zero_pieces: tuple[int, ...] | None = None

    paper = "E2VPT: An Effective and Efficient Approach for Visual Prompt Tuning, ICCV 2023, section unverified"
    space = {"lr": HIGH_LR, "prompt_length": [1, 5, 10, 50], "prefix_length": [1, 5, 10, 50], "drop": [0.0, 0.1]}
    limits = {"prune_tokens": (0, 1), "prune_pieces": (0, 1), "zero_tokens": (0, 2**16), "zero_pieces": (0, 2**24)}

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_token_keys(host)
        self.need_key_width(host)
        self.need_choice("importance", ("absolute", "official"))
        if (self.zero_tokens is None) != (self.zero_pieces is None):
            raise UserError("E2VPT: zero_tokens and zero_pieces are both given, as an empty list too, or neither.")
        for field, count in (("zero_tokens", self.prompt_length), ("zero_pieces", self.prompt_length * self.pieces)):
            if any(index >= count for index in getattr(self, field) or ()):
                raise UserError(f"E2VPT: {field}={getattr(self, field)} must be below {count}, of which there are.")

    def build(self, host: Host) -> None:
        zeros = None if self.zero_tokens is None else (self.zero_tokens, self.zero_pieces)
        host.keep(Masks(self.prompt_length, self.pieces, zeros), "masks")
        super().build(host)
        for block in host.blocks:
            rows = KeyValuePrompts(self.prefix_length, block.inner, block.heads, self.drop, self.shared)
            block.place("core", "before", rows, "rows")

    def prompts(self, host: Host, block: Block) -> Prompts:
        return MaskedPrompts(self.prompt_length, block.dim_in, prompt_bound(host), self.drop, self.masks(host))

    @staticmethod
    def masks(host: Host) -> Masks:
        """The masks of all blocks."""
        return host.holder.peft[host.method_key]["masks"]

    def pruned(self, host: Host, data: TrainingData) -> Method:
        if self.zero_tokens is not None:
            raise UserError("E2VPT: zero_tokens is given, so it is pruned already: leave it out.")
        masks = self.masks(host)
        wanted, sums = [masks.tokens, masks.pieces], [0.0, 0.0]
        for images, labels in data:
            loss = F.cross_entropy(data.logits(images), labels)
            sums = [sum_ + grad for sum_, grad in zip(sums, torch.autograd.grad(loss, wanted), strict=True)]
        tokens, pieces = (sum_.abs() for sum_ in sums)
        if self.importance == "official":
            tokens, pieces = sums[0], sums[0][:, None].expand_as(sums[1])
        drop_tokens = min(int(self.prune_tokens * self.prompt_length), self.prompt_length - FEWEST_TOKENS)
        drop_pieces = max(min(int(self.prune_pieces * self.pieces), self.pieces - FEWEST_PIECES), 0)
        lowest = pieces.sort(dim=1, stable=True).indices[:, :drop_pieces].cpu()
        first = self.pieces * torch.arange(self.prompt_length)[:, None]
        zero_tokens = tokens.sort(stable=True).indices[:drop_tokens].tolist()
        zero_pieces = (first + lowest).flatten().tolist()
        return replace(self, zero_tokens=tuple(sorted(zero_tokens)), zero_pieces=tuple(sorted(zero_pieces)))

    def count(self, host: Host) -> int:
        rows = (1 if self.shared else 2) * self.prefix_length * sum(block.inner for block in host.blocks)
        masks = self.prompt_length * (1 + self.pieces) if self.zero_tokens is None else 0
        return super().count(host) + rows + masks
