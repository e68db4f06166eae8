"""Which linears of a block an update of weights is for, and updates of some rows of a linear."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError

#: Targets, the site that each belongs to, and which third of that site's rows it is (None: all rows).
TARGETS = {
    "q": ("qkv", 0),
    "k": ("qkv", 1),
    "v": ("qkv", 2),
    "qkv": ("qkv", None),
    "proj": ("proj", None),
    "fc1": ("fc1", None),
    "fc2": ("fc2", None),
}
#: First and last row (exclusive) of the targets of one linear.
Rows = dict[str, tuple[int, int]]


class OnTargets(Method):
    """Base of methods with a field ``targets``: any of :data:`TARGETS`, or None for those that a block suggests."""

    targets: tuple[str, ...] | None

    def settled(self, host: Host) -> Method:
        chosen = {self.targets_in(block) for block in host.blocks}
        return dataclasses.replace(self, targets=chosen.pop()) if len(chosen) == 1 else self

    def targets_in(self, block: Block) -> tuple[str, ...]:
        """The targets in a block: q and v unless stated, in a block without attention fc1 and fc2."""
        if self.targets is not None:
            return self.targets
        return ("q", "v") if "qkv" in block.sites else ("fc1", "fc2")

    def check(self, host: Host) -> None:
        if host.blocks and self.targets is not None:
            self.need_choice("targets", TARGETS)

    def linears(self, host: Host) -> Iterator[tuple[Block, str, Rows]]:
        """Of every linear in a block that it updates: the block, the site, and the rows of the targets.

        Raises:
            UserError: A block has no such linear.
        """
        for block in host.blocks:
            targets = self.targets_in(block)
            for site in dict.fromkeys(TARGETS[t][0] for t in targets):
                if site not in block.sites:
                    has = [target for target, (name, _) in TARGETS.items() if name in block.sites]
                    raise UserError(
                        f"{self.registered_name()}: targets={targets!r}: block {block.index} of "
                        f"{host.registered_name()} has no {site}: its blocks have {', '.join(has)}."
                    )
                yield block, site, {t: self.rows(block, t) for t in targets if TARGETS[t][0] == site}

    def sizes(self, host: Host) -> Iterator[tuple[int, int]]:
        """Inputs and updated rows of every target in every block."""
        for block in host.blocks:
            yield from self.sizes_in(block)

    def sizes_in(self, block: Block) -> Iterator[tuple[int, int]]:
        """The same of one block."""
        for target in self.targets_in(block):
            if (site := TARGETS[target][0]) in block.sites:
                first, last = self.rows(block, target)
                yield block.size(site)[0], last - first

    @staticmethod
    def rows(block: Block, target: str) -> tuple[int, int]:
        """Rows of the target's linear that it updates."""
        site, third = TARGETS[target]
        return (0, block.size(site)[1]) if third is None else block.rows(target)


def in_rows(y: Tensor, rows: Rows, changed: Callable[[str, Tensor], Tensor]) -> Tensor:
    """``y`` with every target's rows of its channels as ``changed(target, part)`` gives them, laid out as it was."""
    parts, end = [], 0
    for target, (first, last) in rows.items():
        parts += [y[..., end:first], changed(target, y[..., first:last])]
        end = last
    whole = torch.cat([*parts, y[..., end:]], dim=-1)
    # What follows rounds otherwise on another layout.
    return whole if y.is_contiguous() else torch.empty_like(y, dtype=whole.dtype).copy_(whole)


class RowUpdates(nn.Module):
    """Updates of some rows of one linear, each on its own; a subclass states :meth:`dense` or :meth:`change`.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        drop: Dropout on the input.
    """

    def __init__(self, size: tuple[int, int], rows: Rows, drop: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features = size
        self.rows = dict(sorted(rows.items(), key=lambda item: item[1]))
        self.drop = nn.Dropout(drop)

    def dense(self, target: str) -> Tensor:
        """The update ``(rows, in)`` of a target's rows of the weight."""
        raise NotImplementedError(f"{type(self).__name__} states no update: override dense(target).")

    def change(self, target: str, x: Tensor) -> Tensor:
        """What it adds to a target's rows of the output for the input ``x``."""
        return F.linear(x, self.dense(target))

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` with the change of every target added to its rows."""
        x = self.drop(x) if self.drop.p else x
        return in_rows(y, self.rows, lambda target, part: part + self.change(target, x).to(y.dtype))

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, None]:
        """The dense update of all rows, and no shift."""
        wide = copy.deepcopy(self).double()
        parts = {target: wide.dense(target) for target in self.rows}
        whole = next(iter(parts.values())).new_zeros(self.out_features, self.in_features)
        for target, (first, last) in self.rows.items():
            whole[first:last] = parts[target]
        return whole, None
