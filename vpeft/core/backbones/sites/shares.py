"""Several adapters in one batch: which of its samples are whose.

A site in such a pass holds a site of each adapter (:attr:`.Site.each`). What passes it is taken apart by rows, each
part goes through its own adapter's site, and the parts are put together again. The frozen operations between run once,
for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from vpeft.core.backbones.sites.flow import Flow
from vpeft.errors import UserError

Rows = slice | Tensor


class Shares:
    """Whose the samples of a batch are.

    Args:
        names: The adapter of every sample, in order; anything hashable.

    Attributes:
        size: Samples of the batch.
        owners: The adapters, in the order in which they come first.
    """

    def __init__(self, names: Sequence[Hashable]) -> None:
        self.size = len(names)
        self.owners = list(dict.fromkeys(names))
        self.samples = {own: [i for i, name in enumerate(names) if name == own] for own in self.owners}
        self._rows: dict[tuple[Any, ...], Rows] = {}

    def check(self, size: int) -> None:
        """Refuse a batch of another size.

        Raises:
            UserError: It has other than :attr:`size` samples.
        """
        if size != self.size:
            raise UserError(
                f"the batch has {size} samples, and vpeft.use(model, [...]) names an adapter for {self.size}: name one "
                "for each, in order."
            )

    def rows(self, owner: Hashable, x: Tensor) -> Rows:
        """The rows of a tensor that are an adapter's; of windows and frames, that stand sample by sample, as well.

        Raises:
            UserError: The rows of the tensor do not stand for samples.
        """
        if len(x) % self.size:
            raise UserError(
                f"a tensor of {len(x)} rows passes the adapters of a batch of {self.size}, sample by sample: adapters "
                "cannot be mixed in this model. Call vpeft.use(model, name) for batches of one adapter."
            )
        each = len(x) // self.size
        key = owner, each, x.device
        if key not in self._rows:
            self._rows[key] = self._found(self.samples[owner], each, x.device)
        return self._rows[key]

    def _found(self, samples: list[int], each: int, device: torch.device) -> Rows:
        first, last = samples[0], samples[-1]
        if last - first + 1 == len(samples):
            return slice(first * each, (last + 1) * each)  # a view, no copy
        starts = torch.tensor(samples, device=device)[:, None] * each
        return (starts + torch.arange(each, device=device)).flatten()

    def run(self, deeds: dict[Hashable, Callable[..., Any]], flow: Flow, *inputs: Any) -> Any:
        """Give every adapter its rows, and put together what comes back.

        Args:
            deeds: What each adapter does with its rows; what it leaves out is the identity of the last input.
            flow: The pass. Every adapter has a state of its own in it.
            inputs: Tensors, or named tuples of tensors.

        Raises:
            UserError: The parts do not fit together.
        """
        parts, state, starts, ends = [], flow.state, _place(flow), set()
        for owner in self.owners:
            own = [_map(lambda t, owner=owner: t[self.rows(owner, t)], x) for x in inputs]
            flow.state = flow.shares.setdefault(owner, {})
            flow.prefix, flow.grid, flow.unrolled, flow.came = starts
            parts.append(deeds[owner](*own) if owner in deeds else own[-1])
            ends.add(_place(flow))
        flow.state = state
        if len(ends) > 1:
            raise UserError(f"adapters of one batch change its tokens differently: {_REMEDY}")
        if isinstance(inputs[-1], Tensor):
            return self._joined(parts, inputs[-1])
        fields = zip(*parts, strict=True)
        return type(inputs[-1])(*(self._joined(field, x) for field, x in zip(fields, inputs[-1], strict=True)))

    def _joined(self, parts: Sequence[Tensor], like: Tensor) -> Tensor:
        shapes = {part.shape[1:] for part in parts}
        if len(shapes) > 1:
            found = " and ".join(str(tuple(shape)) for shape in sorted(shapes))
            raise UserError(f"adapters of one batch give {found} a sample: {_REMEDY}")
        own = [like[rows] for owner in self.owners if isinstance(rows := self.rows(owner, like), slice)]
        if len(own) == len(parts) and all(_is_view(a, b) for a, b in zip(own, parts, strict=True)):
            return like  # everything was written into it
        whole = like.new_empty((len(like), *shapes.pop()), dtype=parts[0].dtype)
        for owner, part in zip(self.owners, parts, strict=True):
            whole[self.rows(owner, like)] = part
        return whole


_REMEDY = "they cannot be mixed. Call vpeft.use(model, name) for batches of one adapter."


def _place(flow: Flow) -> tuple[Any, ...]:
    """What a placed module, or an operation around which it stands, may change of the pass."""
    return flow.prefix, flow.grid, flow.unrolled, flow.came


def _map(deed: Callable[[Tensor], Tensor], x: Any) -> Any:
    return deed(x) if isinstance(x, Tensor) else type(x)(*(deed(field) for field in x))


def _is_view(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
