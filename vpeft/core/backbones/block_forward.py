"""The forward pass of a block, re-stated in terms of sites.

Every block gets the mixin of :class:`SiteBlock` that is registered for its class; its class becomes a subclass of
(mixin, its own class), so that keys, parameters and ``isinstance`` checks stay what they were. With nothing placed, the
re-stated forward does the same operations in the same order as the original.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.layout import TOKENS, Layout
from vpeft.core.backbones.sites.pass_hooks import WholeCall
from vpeft.core.backbones.sites.passes import Passes
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear


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


class SiteAttention:
    """Mixin of a module that computes attention between its site ``qkv`` and its site ``proj``.

    Attributes:
        full_keys: Keys and values are of the same tokens as queries, not of a reduced map.
        token_keys: Queries look for tokens, not for channels.
        any_tokens: Every token looks at all others alike, wherever they lie: no windows, tables or rotary embeddings of
            places, so that the attention may be run on any tokens of its width.
        unit_keys: Every channel of keys is brought to length one over the tokens: a scale of it changes nothing.
    """

    full_keys: ClassVar[bool] = True
    token_keys: ClassVar[bool] = True
    unit_keys: ClassVar[bool] = False
    any_tokens: ClassVar[bool] = False
    plain_class: type
    peft_passes: Passes
    peft_index: int
    peft_sites: dict[str, Site]

    @property
    def peft_flow(self) -> Flow:
        """The pass that is inside this block."""
        return self.peft_passes.at(self.peft_index)

    def site_scores(self, q: Tensor, k: Tensor) -> Tensor:
        """What the softmax of the attention takes, ``(B, heads, queries, keys)``: scaled, with bias and mask."""
        raise NotImplementedError(f"{type(self).__name__} states no scores")

    @property
    def site_is_even(self) -> bool:
        """Whether queries and keys are of the same tokens, so that there is a map of the attention."""
        return self.full_keys and self.token_keys

    def site_places(self) -> Tensor | None:
        """Where on the map the tokens of each window lie, ``(nW, N)``, -1 for padding; None without windows."""
        return None

    def site_linears(self, name: str, *inputs: Tensor, order: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """Outputs of a site over several linears (:class:`.StackedLinear`), each its own.

        Args:
            name: The site.
            inputs: One for all of them, or one each, where keys and values are of another tensor than queries. What is
                placed sees every tensor once, and gives each linear the rows that are its own.
            order: In which order the backbone calls them, where it is not theirs: gradients of one input are added up
                in the opposite one.
        """
        site = self.peft_sites[name]
        linears = site.module.linears
        inputs = inputs * len(linears) if len(inputs) == 1 else inputs
        if not site.placed(*site.allowed):
            calls = {i: linears[i](inputs[i]) for i in order or range(len(linears))}
            return tuple(calls[i] for i in range(len(linears)))
        outputs: dict[int, tuple[Tensor, ...]] = {}
        for own in inputs:
            if id(own) not in outputs:
                mine = [x is own for x in inputs]
                beside = functools.partial(_beside, linears, site.module.sizes, mine)
                outputs[id(own)] = site.run(beside, own).split(site.module.sizes, -1)
        return tuple(outputs[id(x)][i] for i, x in enumerate(inputs))

    def site_headed(self, name: str, operation: Operation, x: Tensor) -> Tensor:
        """Outputs of a site over a :class:`.HeadedLinear`, head by head as its module gives them.

        Args:
            name: The site.
            operation: The module, on a stream ``(B, N, C)``.
            x: Its input.
        """
        site = self.peft_sites[name]
        if not site.placed(*site.allowed):
            return operation(x)
        y = site.run(lambda x: site.module.arranged(operation(x), dim=2), x)
        return site.module.restored(y, dim=2)

    def site_gate(self, gate: Callable[..., Tensor], *halves: Tensor) -> Tensor:
        """The hidden layer of a gated MLP at its site ``act``, which shows the halves side by side.

        Args:
            gate: Makes the hidden layer of the halves.
            halves: Outputs of ``fc1``.
        """
        site = self.peft_sites["act"]
        if not site.placed(*site.allowed):
            return gate(*halves)
        return site.run(lambda x: gate(*x.chunk(len(halves), dim=-1)), torch.cat(halves, dim=-1))

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
        if recorder is not None and not self.peft_flow.aside:
            recorder(self, qkv, scores or self.site_scores)
        return qkv


def _beside(linears: Sequence[Operation], rows: Sequence[int], mine: Sequence[bool], x: Tensor) -> Tensor:
    """Outputs of linears side by side, zeros for those that read another tensor."""
    parts = zip(linears, rows, mine, strict=True)
    return torch.cat([linear(x) if own else x.new_zeros(*x.shape[:-1], n) for linear, n, own in parts], dim=-1)


class SiteBlock(SiteAttention):
    """A block kind: ``x <- s1(x) + DP(attention(norm1 x))``, ``x <- s2(x) + DP(mlp(norm2 x))``, every site around it.

    A kind is a mixin of this class that is registered in ``BLOCKS``. It states what it reads (``site_targets`` to
    ``site_layouts``, all of the plain block, before anything is attached), the pieces of the forward pass
    (:meth:`site_norm1`, :meth:`site_attention` before DropPath with LayerScale included, :meth:`site_drop1`, and the
    same three for the MLP), and ``forward``.

    Attributes:
        site_targets: Full names of the block classes whose forward it re-states.
        site_parts: By the name of an inner module, full names of the classes that it may have; ``{0}`` stands for the
            block's own module, and None for a module that may be left out.
        site_inner: By the name of an inner module that computes the attention, the mixin that re-states its forward.
        norm_behind: The norms stand behind the branches, ``x + DP(norm1(attention(x)))``.
        replaces: What the attention gives takes the place of the stream, without an identity path.
        identity_first: The identity path is made ahead of the norm: gradients add up in the opposite order.
        free_keys: A shift of all keys changes nothing, as in a plain product of queries and keys (not with rotary
            embeddings or normalised keys): where keys have no bias, a merged shift may be left out.
        pointwise_mlp: The MLP looks at each token alone, so that it may be run on some of them.
        frames_last: In a video's stream the frames of each place stand together, not the places of each frame.
        frames_apart: At the attention and its norm every frame is a stream of its own, at the MLP the clip is one.
        mask_name: The name of the mask among what travels into the attention.
        queries_apart: Its attention is a function of queries, keys and values alone, without places, windows or a mask:
            further tokens may run through its units with the stream's keys and values.
        tokens_first: It takes tokens before the batch, ``(N, B, C)``, and so do its modules.
    """

    site_targets: ClassVar[tuple[str, ...]]
    site_parts: ClassVar[dict[str, tuple[str | None, ...]]] = {}
    site_inner: ClassVar[dict[str, type[SiteAttention]]] = {}
    norm_behind: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    identity_first: ClassVar[bool] = False
    free_keys: ClassVar[bool] = False
    pointwise_mlp: ClassVar[bool] = True
    queries_apart: ClassVar[bool] = False
    tokens_first: ClassVar[bool] = False
    mask_name: ClassVar[str] = "mask"
    frames_last: ClassVar[bool] = False
    frames_apart: ClassVar[bool] = False

    # What a kind reads of a plain block -----------------------------------------------------------------------------

    @staticmethod
    def site_reads(block: nn.Module) -> bool:
        """Whether a block of these classes is one of the kind, where the parts tell and others are no such block."""
        return True

    @staticmethod
    def site_refuses(block: nn.Module) -> str | None:
        """Why a block of the right classes cannot be re-stated, None where it can."""
        return None

    @staticmethod
    def site_heads(block: nn.Module) -> int:
        """Attention heads; 0 without attention."""
        return block.attn.num_heads

    @staticmethod
    def site_modules(block: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
        """The modules behind ``norm1, qkv, proj, norm2, fc1, act, fc2``; without ``qkv`` the block has no attention.

        What mixes tokens without queries and keys has ``value``, the linear of what is mixed, ``mix``, that of the
        weights, and ``proj``; with none of these the block has the unit of its MLP alone.

        None stands for a place that the re-stated forward runs without a module (``act`` of a gated MLP).
        """
        raise NotImplementedError("a block kind states site_modules(block): docs/hosts.md says what a kind states.")

    @staticmethod
    def site_scales(block: nn.Module) -> tuple[nn.Module | nn.Parameter | None, ...]:
        """The LayerScale of the attention and of the MLP branch, None where there is none; then those of others."""
        return None, None

    @classmethod
    def site_norms_behind(cls, block: nn.Module) -> bool:
        """Whether the block's norms stand behind its branches, where that is not the same for all of the kind."""
        return cls.norm_behind

    @classmethod
    def site_pointwise(cls, block: nn.Module) -> bool:
        """Whether the block's MLP looks at each token alone, where that is not the same for all of the kind."""
        return cls.pointwise_mlp

    @staticmethod
    def site_takes_maps(block: nn.Module) -> bool:
        """Whether its modules take ``(B, C, H, W)`` though its stream is one of tokens."""
        return False

    @staticmethod
    def site_layouts(block: nn.Module) -> tuple[Layout, Layout]:
        """How the stream, and what is inside the branches, is laid out at the sites between modules."""
        return TOKENS, TOKENS

    def site_norm1(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no norm1")

    def site_attention(self, x: Tensor, **given: Any) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no attention")

    def site_drop1(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no drop1")

    def site_norm2(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no norm2")

    def site_mlp(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no mlp")

    def site_drop2(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} states no drop2")

    def site_entered(self, x: Tensor) -> None:
        """What a block tells the pass as the stream ``x`` enters it, before anything placed sees it."""
        flow = self.peft_flow
        flow.frames_last, flow.came = self.frames_last, (flow.grid, flow.unrolled)

    def site_start(self, x: Tensor) -> Tensor:
        """What a block does ahead of its units."""
        return x

    def site_between(self, x: Tensor) -> Tensor:
        """What a block does between its two units."""
        return x

    def site_end(self, x: Tensor) -> Tensor:
        """What a block does behind its units."""
        return x

    def site_add(self, x: Tensor, y: Tensor) -> Tensor:
        """The stream and a branch's output together."""
        return x + y

    def site_beside(self, x: Tensor, operation: Operation) -> Tensor:
        """``operation`` on the tokens of the map, with those before it put before its result."""
        first = self.peft_flow.prefix
        return torch.cat((x[:, :first], operation(x[:, first:])), dim=1) if first else operation(x)

    def site_unit(self, name: str, norm: Operation, operation: Operation, drop: Operation, x: Tensor) -> Tensor:
        """A residual unit, ``x <- s(x) + DP(operation(norm x))``, with its sites around it.

        With the norm behind it ``x <- s(x) + DP(norm(operation(x)))``; the branch is what is added, norm and all.
        """
        branch, unit = self.peft_sites[f"{name}_branch"], self.peft_sites[f"{name}_residual"]
        own = x
        if self.identity_first:
            x = self.site_identity(name, own, own)
        if self.site_norms_behind(self):
            n, inside = own, lambda x: norm(operation(x))
        else:
            n, inside = norm(own), operation
        if not self.identity_first:
            x = self.site_identity(name, own, n)
        y = branch.dropped(n, branch.run(inside, n), drop)
        if name == "attn" and self.replaces:
            return unit.after(own, y)
        return unit.after(x, self.site_add(unit.shortcut(x), y))

    def site_identity(self, name: str, x: Tensor, n: Tensor) -> Tensor:
        """The identity path of a unit whose input is ``x``, normed ``n``: as wide as the branch's output.

        With ``identity_first`` it is made ahead of the norm, and ``n`` is ``x``.
        """
        return x

    def site_forward(self, x: Tensor, grid: tuple[int, ...] | None = None, **given: Any) -> Tensor:
        """The block on a stream ``(B, prefix + H*W, C)``, in video ``(B, prefix + T*H*W, C)``.

        Args:
            x: The stream.
            grid: Extents of the map, where the block is told them.
            given: What else travels into the attention (rotary embeddings, masks).
        """
        mark = self.peft_passes.enter(self.peft_index, grid, x)
        self.peft_flow.masked = given.get(self.mask_name) is not None
        self.site_entered(x)
        block, features = self.peft_sites["block"], self.peft_passes.features
        start = x = block.before(x if features is None else features.entered(self, x))
        x = self.site_inside(x, **given) if features is None else features.through(self, x, given)
        x = block.after(start, x)
        self.peft_passes.leave(mark, x)
        return x

    def site_inside(self, x: Tensor, **given: Any) -> Tensor:
        return self.site_end(self.site_units(self.site_start(x), **given))

    def site_units(self, x: Tensor, **given: Any) -> Tensor:
        """The residual units of the block, one behind the other."""
        if "attn_branch" in self.peft_sites:
            attention = functools.partial(self.site_attention, **given) if given else self.site_attention
            x = self.site_between(self.site_unit("attn", self.site_norm1, attention, self.site_drop1, x))
        return self.site_unit("mlp", self.site_norm2, self.site_mlp, self.site_drop2, x)


class SiteBackbone(WholeCall):
    """Mixin for a host's backbone: what must happen when weights are initialised, and in train mode."""

    def init_weights(self, *args, **kwargs) -> None:
        """Initialise or load the base as the plain class does, then the PEFT parameters, which so keep their start."""
        plain = getattr(super(), "init_weights", lambda: None)  # a model of OpenMMLab asks any of its modules
        self.peft_adaptation.initialise(plain, *args, **kwargs)

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
