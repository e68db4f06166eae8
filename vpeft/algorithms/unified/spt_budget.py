"""SPT's budget: all trained numbers in one tensor, and what of it belongs to which operation."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.modules.stateless import Stateless
from vpeft.algorithms.reparameter.targets import Rows, in_rows
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program


class BudgetPart(NamedTuple):
    """A matrix or a vector of the base that may be trained, whole or some of its entries.

    Attributes:
        size: Numbers in it.
        module: Numbers of its structured module; 0 of a vector, which has none.
        inputs: Inputs of the structured module; 1 of a vector.
    """

    size: int
    module: int
    inputs: int

    @property
    def may_be_structured(self) -> bool:
        """Whether it is a matrix of which its module is the smaller form."""
        return 0 < self.module <= self.size

    @property
    def most(self) -> int:
        """Numbers that can be spent on it."""
        return self.module if self.may_be_structured else self.size


class Budget(nn.Module):
    """All trained numbers in one tensor: first those of the structured modules, then one for each chosen entry.

    Attributes:
        values: ``(slots,)``.
        index: ``(slots,)``, the entry that each belongs to, counted through all parts; -1 in structured modules.
        structured: Which parts have a structured module.
    """

    weight_decay = False

    def __init__(self, parts: list[BudgetPart], slots: int, rank: int, biased: bool) -> None:
        super().__init__()
        self.parts, self.rank, self.biased = parts, rank, biased
        self.ends = list(itertools.accumulate(part.size for part in parts))
        self.values = nn.Parameter(torch.empty(slots))
        # Before the selection entries all over the parts.
        self.register_buffer("index", torch.arange(slots) * self.ends[-1] // slots)
        self.register_buffer("structured", torch.zeros(len(parts), dtype=torch.bool))
        self.register_buffer("learned", torch.tensor(False))
        self.made: tuple | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """No change: entries and upper matrices zero, lower ones Kaiming-uniform with a = sqrt 5, as torch's linear."""
        nn.init.zeros_(self.values)
        if self.index.is_meta:
            return
        for part, (slots, _, _) in zip(self.parts, self.layout(), strict=True):
            drawn = self.rank * (part.inputs + self.biased) if part.module else 0
            bound = 1 / math.sqrt(part.inputs)
            nn.init.uniform_(self.values.detach()[slots.start : min(slots.start + drawn, slots.stop)], -bound, bound)

    def layout(self) -> list[tuple[slice, slice, Tensor]]:
        """Of each part the places of its module's numbers, those of its entries, and its entries."""
        if self.made is not None and (in_program() or self._unchanged()):
            return self.made[2]
        found, first, begin = [], 0, 0
        chosen = self.index[self.index >= 0]
        bounds = torch.searchsorted(chosen, torch.tensor([0, *self.ends], device=chosen.device)).tolist()
        entries = len(self.index) - len(chosen)
        flags = self.structured.tolist()
        for part, flag, low, high, end in zip(self.parts, flags, bounds, bounds[1:], self.ends, strict=False):
            last = first + (part.module if flag else 0)
            found.append((slice(first, last), slice(entries + low, entries + high), chosen[low:high] - begin))
            first, begin = last, end
        self.made = (self.index, self._versions(), found)
        return found

    def _unchanged(self) -> bool:
        return self.made[0] is self.index and self.made[1] == self._versions()

    def _versions(self) -> tuple[int, int]:
        return self.index._version, self.structured._version

    @torch.no_grad()
    def allot(self, scores: Tensor, alpha: float, beta: float) -> None:
        """Give every slot away by the sensitivities of all numbers, part after part."""
        structured, entries = allotted(scores, self.parts, len(self.values), alpha, beta)
        self.structured.copy_(torch.tensor(structured))
        self.index.fill_(-1)
        self.index[len(self.index) - len(entries) :] = entries.to(self.index.device)
        self.reset_parameters()
        self.learned.fill_(True)


def allotted(
    scores: Tensor, parts: list[BudgetPart], slots: int, alpha: float, beta: float
) -> tuple[list[bool], Tensor]:
    """Who gets the budget.

    Of the tau most sensitive numbers those of a matrix are trained as entries, or by its structured module where they
    are at least ``module / alpha``; a vector that has at least ``size / beta`` of them is trained whole. tau is the
    largest that ``slots`` suffice for; what is left goes to the next entries. No module is larger than its matrix.

    Args:
        scores: Sensitivities of all parts' numbers, one part after the other.
        parts: The parts.
        slots: Numbers to train.
        alpha: The higher, the sooner a matrix gets a module.
        beta: The higher, the sooner a vector is trained whole.

    Returns:
        Which parts have a structured module, and the chosen entries, sorted.
    """
    sizes = torch.tensor([part.size for part in parts], device=scores.device)
    modules = torch.tensor([part.module for part in parts], device=scores.device)
    ends, may = sizes.cumsum(0), torch.tensor([part.may_be_structured for part in parts], device=scores.device)
    top = owners = scores.new_empty(0, dtype=torch.long)

    def at(tau: int) -> tuple[Tensor, Tensor, Tensor]:
        count = torch.bincount(owners[:tau], minlength=len(parts))
        structured = may & (count >= modules / alpha)
        whole = (modules == 0) & (count >= sizes / beta)
        return torch.where(structured, modules, torch.where(whole, sizes, count)).sum(), structured, whole

    high = slots
    while high != len(top) and at(len(top))[0] <= slots:  # ranking all numbers would take long
        top = scores.topk(high).indices
        owners = torch.bucketize(top, ends, right=True)
        high = min(2 * high, len(scores))
    low, high = 0, len(top)
    while low < high:  # the cost never falls: a module costs at least the count that brings it
        middle = (low + high + 1) // 2
        low, high = (middle, high) if at(middle)[0] <= slots else (low, middle - 1)
    _, structured, whole = at(low)
    own = top[:low]
    taken = torch.zeros_like(scores, dtype=torch.bool)
    taken[own[~structured[owners[:low]]]] = True
    for first, last in zip((ends - sizes)[whole].tolist(), ends[whole].tolist(), strict=True):
        taken[first:last] = True
    left = slots - int(modules[structured].sum()) - int(taken.sum())
    free = scores.masked_fill(taken | structured.repeat_interleave(sizes), -math.inf)
    taken[free.topk(left).indices] = True
    return structured.tolist(), taken.nonzero().flatten()


class OfBudget(Stateless):
    """What of the budget belongs to one operation; the budget is referred to, not owned."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = (budget,)  # in a tuple, so that torch does not register it a second time

    def own(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of a part the numbers of its module, those of its entries, and the entries."""
        (budget,) = self.budget
        module, entries, positions = budget.layout()[number]
        return budget.values[module], budget.values[entries], positions

    def spread(self, number: int) -> Tensor:
        """The change of a part's entries, zero elsewhere."""
        _, values, positions = self.own(number)
        return values.new_zeros(self.budget[0].parts[number].size).scatter(0, positions, values)


class Allotted(OfBudget):
    """What of the budget belongs to one linear: entries of its weight and bias, and structured modules.

    Args:
        budget: Of all parts.
        site: The linear's site.
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        numbers: By target the number of its matrix among the parts, and of its bias (or None).
        drop: Dropout on what the modules read.
        drop_path: Rate at which a module is left out for one image.
    """

    def __init__(
        self,
        budget: Budget,
        site: str,
        size: tuple[int, int],
        rows: Rows,
        numbers: dict[str, tuple[int, int | None]],
        drop: float,
        drop_path: float,
    ) -> None:
        from timm.layers import DropPath  # few methods need timm

        super().__init__(budget)
        self.numbers, self.beside, self.shape = numbers, site == "proj", size[::-1]
        self.rows = dict(sorted(rows.items(), key=lambda item: item[1]))
        # The authors drop nothing ahead of what stands beside proj.
        self.drop, self.drop_path = nn.Dropout(0.0 if self.beside else drop), DropPath(drop_path)

    def add_to(self, y: Tensor, x: Tensor, flow: Flow) -> Tensor:
        """``y`` with all of them added."""
        dropped = self.drop(x)
        return in_rows(y, self.rows, lambda target, part: self.changed(target, part, x, dropped))

    def changed(self, target: str, y: Tensor, x: Tensor, dropped: Tensor) -> Tensor:
        matrix, bias = self.numbers[target]
        module, values, positions = self.own(matrix)
        if len(values) and in_program():  # not every exporter has index_add
            y = y + F.linear(x, self.spread(matrix).view(-1, self.shape[1])).to(y.dtype)
        elif len(values):  # a product per entry instead of a dense one
            row, column = positions // self.shape[1], positions % self.shape[1]
            y = y.index_add(-1, row, (x.index_select(-1, column) * values).to(y.dtype))
        if bias is not None and len(self.own(bias)[1]):
            y = y + self.spread(bias).to(y.dtype)
        return y + self.drop_path(self.structured(module, y, x, dropped)).to(y.dtype) if len(module) else y

    def structured(self, module: Tensor, y: Tensor, x: Tensor, dropped: Tensor) -> Tensor:
        """What the structured module adds to the rows ``y`` of the output."""
        raise NotImplementedError("state the structured module")


class AllottedLoRA(Allotted):
    """``B A Drop(x)``."""

    def pair(self, module: Tensor) -> tuple[Tensor, Tensor]:
        """A ``(r, in)`` and B ``(rows, r)``."""
        rank, inputs = self.budget[0].rank, self.shape[1]
        return module[: rank * inputs].view(rank, inputs), module[rank * inputs :].view(-1, rank)

    def structured(self, module: Tensor, y: Tensor, x: Tensor, dropped: Tensor) -> Tensor:
        down, up = self.pair(module)
        return F.linear(F.linear(dropped, down), up)

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, Tensor | None]:
        """The dense change of weight and bias."""
        matrix = torch.zeros(self.shape, dtype=torch.float64, device=self.budget[0].values.device)
        shift = matrix.new_zeros(self.shape[0])
        for target, (first, last) in self.rows.items():
            number, bias = self.numbers[target]
            matrix[first:last] = self.spread(number).view(-1, self.shape[1]).double()
            module = self.own(number)[0].double()
            if len(module):
                down, up = self.pair(module)
                matrix[first:last] += up @ down
            if bias is not None:
                shift[first:last] = self.spread(bias).double()
        return matrix, shift if shift.any() else None


class AllottedAdapter(Allotted):
    """``W_up GELU(W_dn Drop(y) + b_dn) + b_up`` of the output y; beside proj of its input."""

    def structured(self, module: Tensor, y: Tensor, x: Tensor, dropped: Tensor) -> Tensor:
        read, rank = dropped if self.beside else self.drop(y), self.budget[0].rank
        inputs, rows = read.shape[-1], y.shape[-1]
        down, down_bias, up, up_bias = module.split([rank * inputs, rank, rows * rank, rows])
        hidden = F.gelu(F.linear(read, down.view(rank, inputs), down_bias))
        return F.linear(hidden, up.view(rows, rank).to(hidden.dtype), up_bias.to(hidden.dtype))


class AllottedNorm(OfBudget):
    """Entries of a norm's weight w and bias b: ``y + dw (y - b) / w + db``, what training them themselves gives."""

    def __init__(self, budget: Budget, module: nn.Module, weight: int, bias: int | None) -> None:
        super().__init__(budget)
        self.operation, self.numbers = (module,), (weight, bias)

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """Diagonal ``1 + dw / w`` and shift ``db - b dw / w``; a weight of 0 stays."""
        weight, bias = self.numbers
        change, (module,) = self.spread(weight), self.operation
        own = module.weight.to(change)
        gain = change / own.where(own != 0, math.inf)
        return 1 + gain, None if bias is None else self.spread(bias) - gain * module.bias.to(gain)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        scale, shift = self.affine()
        y = y * scale.to(y.dtype)
        return y if shift is None else y + shift.to(y.dtype)
