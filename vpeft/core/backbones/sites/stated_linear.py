"""Linears that a block's re-stated forward runs: weights used without a call, and several linears as one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

#: A parameter by the module that holds it, and its name there.
Held = tuple[nn.Module, str]


class StatedLinear:
    """A linear whose weights a backbone uses without calling a module: its block's re-stated forward runs the site.

    Args:
        weight: Where its weight ``(out, in)`` is: the module that holds it, and the name there.
        *biases: The same of every part of its bias along the output, in order; None for a part that is always zero.

    Attributes:
        void: First and last row (exclusive) of the bias that the backbone takes as zero, whatever they hold.
    """

    void = (0, 0)

    def __init__(self, weight: Held, *biases: Held | None) -> None:
        rows = weight[0].get_parameter(weight[1]).shape[0]
        self._weights, self._biases = [weight], list(biases)
        self.bias_rows = [rows // max(len(biases), 1)] * len(biases)
        self.out_features, self.in_features = rows, self.weight.shape[1]

    @property
    def holders(self) -> list[nn.Module]:
        """The modules that hold its weight and the parts of its bias."""
        return [module for module, _ in (*self._weights, *filter(None, self._biases))]

    @property
    def weights(self) -> list[nn.Parameter]:
        """The parts of its weight along the output, as the modules hold them now."""
        return [getattr(*part) for part in self._weights]

    @property
    def rows(self) -> list[int]:
        """Rows of each part of its weight."""
        return [weight.shape[0] for weight in self.weights]

    @property
    def sizes(self) -> list[int]:
        """Outputs of each of its linears."""
        return self.rows

    @property
    def weight(self) -> Tensor:
        """``(out, in)``; a parameter where it has one part."""
        parts = self.weights
        return self.arranged(parts[0] if len(parts) == 1 else torch.cat(parts))

    def arranged(self, values: Tensor, dim: int = 0) -> Tensor:
        """What its modules have along its outputs (weights, biases, outputs), in the order that methods see."""
        return values

    def restored(self, values: Tensor, dim: int = 0) -> Tensor:
        """The inverse of :meth:`arranged`."""
        return values

    def into(self, whole: Tensor, values: Tensor) -> Tensor:
        """What a parameter ``whole`` of its modules becomes with ``values`` (:meth:`restored`) in their place."""
        return values.view(whole.shape)

    @property
    def biases(self) -> tuple[nn.Parameter | None, ...]:
        """The parts of its bias, in order; None for a part that is always zero."""
        return tuple(None if part is None else getattr(*part) for part in self._biases)

    @property
    def bias(self) -> Tensor | None:
        """The whole bias ``(out,)``, None where it has none."""
        if all(part is None for part in self.biases):
            return None
        new_zeros = self.weights[0].new_zeros
        parts = zip(self.biases, self.bias_rows, strict=True)
        return self.arranged(torch.cat([new_zeros(rows) if part is None else part for part, rows in parts]))

    def parameters(self) -> Iterator[nn.Parameter]:
        """Weights and parts of the bias that exist."""
        yield from self.weights
        yield from (part for part in self.biases if part is not None)


class StackedLinear(StatedLinear):
    """Several linears with one input as one: queries, keys and values apart, or the two halves of a gated MLP.

    Args:
        *linears: In the order of the rows.
        biases: Where the bias of each is, None for a part that is always zero; by default the linears' own.
    """

    def __init__(self, *linears: nn.Linear, biases: Sequence[Held | None] | None = None) -> None:
        self.linears: Sequence[nn.Linear] = linears
        self._weights = [(linear, "weight") for linear in linears]
        own = [(linear, "bias") if linear.bias is not None else None for linear in linears]
        self._biases = own if biases is None else list(biases)
        self.bias_rows = self.sizes
        self.out_features, self.in_features = sum(self.sizes), linears[0].weight.shape[1]


class SlicedLinear(StatedLinear):
    """A linear that is some rows, or some columns, of another one's weight; the rest belongs to other sites.

    Args:
        weight: Where the whole weight is.
        bias: Where the whole bias is; one that is its own has to be that of the first rows. None without any.
        rows: First and last row (exclusive), all by default.
        columns: Likewise of the columns.
    """

    def __init__(
        self,
        weight: Held,
        bias: Held | None,
        *,
        rows: tuple[int, int] | None = None,
        columns: tuple[int, int] | None = None,
    ) -> None:
        self.slices = tuple(slice(None) if part is None else slice(*part) for part in (rows, columns))
        super().__init__(weight, *([] if bias is None else [bias]))
        self.out_features = len(self.weight)

    @property
    def rows(self) -> list[int]:
        return [self.out_features]

    def arranged(self, values: Tensor, dim: int = 0) -> Tensor:
        return values if dim else values[self.slices[: values.dim()]]

    def into(self, whole: Tensor, values: Tensor) -> Tensor:
        whole = whole.clone()
        whole[self.slices[: whole.dim()]] = values
        return whole


class HeadedLinear(StatedLinear):
    """Queries, keys, values of a linear or 1x1 convolution that has them head by head; methods see all queries first.

    Args:
        module: The linear or convolution.
        heads: Number of heads; 1 where the module has all queries first too.
        widths: Outputs of one head in each part, in the module's order.
    """

    def __init__(self, module: nn.Module, heads: int, widths: Sequence[int]) -> None:
        self.heads, self.widths = heads, list(widths)
        super().__init__((module, "weight"), *([] if module.bias is None else [(module, "bias")]))

    @property
    def rows(self) -> list[int]:
        """Rows of queries, keys and values."""
        return [self.heads * width for width in self.widths]

    def arranged(self, values: Tensor, dim: int = 0) -> Tensor:
        parts = values.unflatten(dim, (self.heads, -1)).split(self.widths, dim + 1)
        values = torch.cat([part.flatten(dim, dim + 1) for part in parts], dim)
        return values.flatten(1) if dim == 0 and values.dim() == 4 else values

    def restored(self, values: Tensor, dim: int = 0) -> Tensor:
        parts = (part.unflatten(dim, (self.heads, -1)) for part in values.split(self.rows, dim))
        return torch.cat(list(parts), dim + 1).flatten(dim, dim + 1)


def bias_size(module: nn.Module | StatedLinear) -> int:
    """How many numbers the bias of a linear, convolution or norm has as parameters; of a slice, those of its rows."""
    parts = module.biases if isinstance(module, StatedLinear) else (getattr(module, "bias", None),)
    return sum(in_order(module, part).numel() for part in parts if isinstance(part, nn.Parameter))


def weight_parts(module: nn.Module | StatedLinear) -> list[nn.Parameter]:
    """The parameters that make up the weight of a linear, convolution or norm, along its output."""
    return module.weights if isinstance(module, StatedLinear) else [module.weight]


def in_order(module: nn.Module | StatedLinear, values: Tensor) -> Tensor:
    """What belongs to the rows of :func:`weight_parts`, in the order of the outputs that methods see."""
    return module.arranged(values) if isinstance(module, StatedLinear) else values
