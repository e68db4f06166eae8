"""The forward pass of a pre-norm transformer block, re-stated in terms of sites.

A host gives its blocks a mixin of :class:`SiteBlock`; the block's class becomes a subclass of (mixin, its own class),
so that keys, parameters and ``isinstance`` checks stay what they were. With nothing placed, the re-stated forward does
the same operations in the same order as the original.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import Passes
from vpeft.core.backbones.sites.site import Site


class QKV(NamedTuple):
    """What the site ``core`` carries: queries, keys and values, and the attention input that they came from.

    ``q``, ``k``, ``v`` have the shape ``(B, heads, tokens, head width)`` and ``x`` has ``(B, tokens, C)``; for
    windowed attention ``B`` counts windows, image by image.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    x: Tensor


#: What a state dict says of its base: a key in torch's own metadata of the backbone's module.
BASE_NOTE = "peft_base"

Operation = Callable[[Tensor], Tensor]
Scores = Callable[[Tensor, Tensor], Tensor]


@functools.cache
def site_class(cls: type, mixin: type) -> type:
    """The subclass of ``cls`` whose forward is ``mixin``'s; one class per pair."""
    members = {"__module__": cls.__module__, "plain_class": cls, "site_mixin": mixin}
    return type(cls.__name__, (Rebuilt, mixin, cls), members)


class Rebuilt:
    """Mixin: pickled by the two classes that it is made of, as no module holds the class itself."""

    def __reduce_ex__(self, protocol: int) -> tuple[Any, ...]:
        state = self.__getstate__() if hasattr(self, "__getstate__") else self.__dict__  # object has it from 3.11 on
        return _empty, (self.plain_class, self.site_mixin), state


def _empty(cls: type, mixin: type) -> nn.Module:
    made = site_class(cls, mixin)
    return made.__new__(made)


class SiteBlock:
    """Mixin: ``x <- s1(x) + DP(attention(norm1 x))``, ``x <- s2(x) + DP(mlp(norm2 x))`` with every site around it.

    A host's mixin states the pieces: :meth:`site_norm1`, :meth:`site_attention` (before DropPath, LayerScale
    included), :meth:`site_drop1`, and the same three for the MLP.
    """

    plain_class: type
    peft_passes: Passes
    peft_index: int
    peft_sites: dict[str, Site]

    @property
    def peft_flow(self) -> Flow:
        """The pass that is inside this block."""
        return self.peft_passes.at(self.peft_index)

    def site_norm1(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no norm1")

    def site_attention(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no attention")

    def site_drop1(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no drop1")

    def site_norm2(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no norm2")

    def site_mlp(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no mlp")

    def site_drop2(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no drop2")

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        """What the softmax of the attention takes, ``(B, heads, queries, keys)``: scaled, with bias and mask."""
        raise NotImplementedError(f"{type(self).__name__} states no scores")

    def site_places(self) -> Tensor | None:
        """Where on the map the tokens of each window lie, ``(nW, N)``, -1 for padding; None without windows."""
        return None

    def site_core(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor, scores: Scores | None = None) -> QKV:
        """Queries, keys and values as the methods at the site ``core`` leave them.

        Args:
            q: Queries, as in :class:`QKV`; likewise ``k``, ``v`` and ``x``.
            k: Keys.
            v: Values.
            x: The attention's input.
            scores: :meth:`site_scores`, with the mask where it takes one.
        """
        qkv = self.peft_sites["core"].before(QKV(q, k, v, x))
        recorder = self.peft_passes.recorder
        if recorder is not None:
            recorder(self, qkv, scores or self.site_scores)
        return qkv

    def site_unit(self, name: str, norm: Operation, operation: Operation, drop: Operation, x: Tensor) -> Tensor:
        """A residual unit, ``x <- s(x) + DP(operation(norm x))``, with its sites around it."""
        branch, unit = self.peft_sites[f"{name}_branch"], self.peft_sites[f"{name}_residual"]
        n = norm(x)
        y = branch.dropped(n, branch.run(operation, n), drop)
        return unit.after(x, unit.shortcut(x) + y)

    def site_forward(self, x: Tensor, grid: tuple[int, ...] | None = None) -> Tensor:
        """The block on a stream ``(B, prefix + H*W, C)``, in video ``(B, prefix + T*H*W, C)``."""
        mark = self.peft_passes.enter(self.peft_index, grid, x)
        block = self.peft_sites["block"]
        start = x = block.before(x)
        x = self.site_unit("attn", self.site_norm1, self.site_attention, self.site_drop1, x)
        x = self.site_unit("mlp", self.site_norm2, self.site_mlp, self.site_drop2, x)
        x = block.after(start, x)
        self.peft_passes.leave(mark, x)
        return x


class SiteBackbone:
    """Mixin for a host's backbone: what must happen when weights are initialised, and in train mode."""

    plain_class: type

    def init_weights(self, *args, **kwargs) -> None:
        """Initialise or load the base as the plain class does, then the PEFT parameters, which so keep their start."""
        self.peft_adaptation.initialise(super().init_weights, *args, **kwargs)

    def train(self, mode: bool = True) -> nn.Module:
        """As the plain class; a frozen base that no gradient enters stays in eval mode (no DropPath, no dropout)."""
        super().train(mode)
        self.peft_adaptation.set_mode(mode)
        return self

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        self.peft_adaptation.save_merged(destination, prefix)

    def _load_from_state_dict(
        self, state_dict: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any], *args, **kwargs
    ) -> None:
        self.peft_adaptation.complete(state_dict, prefix, local_metadata.get(BASE_NOTE))
        # Some backbones convert old checkpoints only where `self.__class__` is exactly their own class.
        swapped = self.__class__
        self.__class__ = self.plain_class
        try:
            self._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)
        finally:
            self.__class__ = swapped
