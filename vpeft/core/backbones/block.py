"""Blocks as methods see them, and which block kind reads a block."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from vpeft.core.backbones.block_forward import SiteAttention, SiteBlock, site_class
from vpeft.core.backbones.saving.normalised import KeptNorm, saving_mixin
from vpeft.core.backbones.sites.layout import MAP_FIRST, TOKENS
from vpeft.core.backbones.sites.passes import Passes
from vpeft.core.backbones.sites.site import BRANCH_PLACEMENTS, Site
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.wrappers import held_name
from vpeft.errors import UserError
from vpeft.registry import BLOCKS

_STATE = ("peft_passes", "peft_index", "peft_sites")
#: The norm ahead of each unit, and the sites that read what it gives.
_NORMS = {"norm1": ("qkv", "attn_branch"), "norm2": ("fc1", "mlp_branch")}


class Owner(Protocol):
    """What a block knows of its host (:class:`vpeft.core.backbones.host.Host`)."""

    blocks: list[Block]

    def place(self, site: str, placement: str, module: nn.Module, name: str, block: Block | None = None) -> None:
        """Put a module at a site."""


@dataclass
class HostParam:
    """An existing parameter of the base.

    Attributes:
        name: Its key inside the backbone.
        param: The parameter.
        role: ``weight | bias | norm_weight | norm_bias | layer_scale | logit_scale | rel_pos_bias | rel_pos |
            pos_embed | cls_token | neck | unused | other``, by what it does (:mod:`vpeft.core.backbones.roles`), never
            by its name; ``unused`` leads to no output, and the ``neck`` behind the blocks is left alone.
        block: The block that holds it, or None.
        site: The site whose module holds it, or None.
    """

    name: str
    param: nn.Parameter
    role: str
    block: Block | None
    site: str | None


@dataclass
class Block:
    """One block as methods see it.

    Attributes:
        module: The backbone's own block.
        kind: The mixin that re-states its forward.
        index: Its place in the order of all blocks.
        stage: Its stage (0 for a host without stages).
        heads: Attention heads; 0 without attention.
        dim: Width C of its stream.
        dim_in: Width of the stream that enters it, where it is another one.
        hidden: Width of the MLP's hidden layer, as its last linear reads it.
        sites: Its sites by name.
    """

    module: nn.Module
    kind: type[SiteBlock]
    index: int
    stage: int
    heads: int = 0
    dim: int = 0
    dim_in: int = 0
    hidden: int = 0
    sites: dict[str, Site] = field(default_factory=dict, repr=False)
    host: Owner | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.heads = self.kind.site_heads(self.module)
        modules = self.kind.site_modules(self.module)
        self.dim, self.hidden = _shape(modules["fc2"])[:2]
        first, axis = (modules.get("qkv"), 1) if self.norm_behind else (modules.get("norm1"), 0)
        self.dim_in = self.dim if first is None else _shape(first)[axis]

    @property
    def units(self) -> tuple[str, ...]:
        """Its residual units: ``attn`` where it has attention, or mixes tokens in another way, and ``mlp``."""
        return ("attn", "mlp") if "proj" in self.sites else ("mlp",)

    @property
    def norm_behind(self) -> bool:
        """Whether its norms stand behind its branches."""
        return self.kind.site_norms_behind(self.module)

    @property
    def inner(self) -> int:
        """Width of its attention, of all heads together."""
        return self.size("proj")[0]

    @property
    def is_square(self) -> bool:
        """Whether its queries, keys and values are as wide as its stream, one after the other."""
        thirds = [(i * self.dim, (i + 1) * self.dim) for i in range(3)]
        return (
            "qkv" in self.sites and self.size("qkv") == (self.dim, 3 * self.dim) and [*map(self.rows, "qkv")] == thirds
        )

    @property
    def takes_tokens(self) -> bool:
        """Whether other tokens than those of the map may enter it."""
        return self.sites["block"].layout.tokens and "qkv" in self.sites

    def linears(self, *names: str) -> Iterator[tuple[str, nn.Module | StatedLinear]]:
        """Those of the named sites that it has and that are modules, with these."""
        found = ((name, self.sites[name].module) for name in names if name in self.sites)
        yield from ((name, module) for name, module in found if module is not None)

    def size(self, site: str) -> tuple[int, int]:
        """Inputs and outputs of the linear of a site."""
        module = self.sites[site].module
        if isinstance(module, StatedLinear):  # without putting its parts together
            return module.in_features, module.out_features
        return module.weight.shape[1], module.weight.shape[0]

    def rows(self, name: str) -> tuple[int, int]:
        """First and last row (exclusive) of ``q``, ``k`` or ``v`` among the outputs of the site ``qkv``."""
        module = self.sites["qkv"].module
        rows = module.rows if isinstance(module, StatedLinear) else [module.weight.shape[0]]
        if len(rows) == 1:
            rows = [rows[0] // 3] * 3
        elif len(rows) == 2:  # queries, and keys with values
            rows = [rows[0], rows[1] // 2, rows[1] // 2]
        number = "qkv".index(name)
        return sum(rows[:number]), sum(rows[: number + 1])

    def place(self, site: str, placement: str, module: nn.Module, name: str) -> None:
        """Put ``module`` at ``site``; its parameters get the key ``<block>.peft.<method>.<name>``."""
        self.host.place(site, placement, module, name, block=self)

    def placed(self, method: str) -> nn.ModuleDict:
        """The modules of a method at this block, by name."""
        return self.module.peft[method]

    # Taken over by a host -------------------------------------------------------------------------------------------

    def make_sites(self, passes: Passes) -> None:
        """Make its sites, with nothing placed."""
        stream, inside = self.kind.site_layouts(self.module)
        make, takes_maps = (
            functools.partial(Site, passes=passes, index=self.index),
            self.kind.site_takes_maps(self.module),
        )
        self.sites = sites = {}
        for name, module in self.kind.site_modules(self.module).items():
            convolves = isinstance(module, nn.modules.conv._ConvNd)
            maps = (inside is MAP_FIRST or takes_maps) and isinstance(module, nn.Module)
            pointwise = set(module.kernel_size) == set(module.stride) == {1} if convolves else maps
            layout = TOKENS if module is not None else inside
            turned = {"tokens_first": self.kind.tokens_first and module is not None}
            first = {"channels_first": convolves or maps, "pointwise": pointwise}
            sites[name] = make(name, module=module, layout=layout, **first, **turned)
        scales = self.kind.site_scales(self.module)
        sites["block"] = make("block", layout=stream)
        if "qkv" in sites:
            sites["core"] = make("core", allowed=("before",))
            sites["qkv"].keys = sites["core"] if self.kind.free_keys else None
        ends = {"attn": ("norm1", "proj", scales[0]), "mlp": ("norm2", "fc2", scales[1])}
        for unit in self.units:
            norm, last, scale = ends[unit]
            fold = (sites[norm if self.norm_behind else last], scale)
            branch = (
                BRANCH_PLACEMENTS if unit == "attn" or self.kind.site_pointwise(self.module) else BRANCH_PLACEMENTS[1:]
            )
            residual: tuple[str, ...] = ("parallel", "after", "shortcut")
            if unit == self.units[0] and self.dim_in != self.dim:  # what goes in does not fit what comes out
                branch, residual = ("after", "late"), ("after", "shortcut")
                sites["block"].allowed = ("before", "after")
            if unit == "attn" and self.kind.replaces:
                residual = ("after",)
            sites[f"{unit}_branch"] = make(f"{unit}_branch", allowed=branch, fold=fold, layout=inside)
            sites[f"{unit}_residual"] = make(f"{unit}_residual", allowed=residual, layout=stream)

    def adopt(self, passes: Passes) -> None:
        """Run the block through its sites from now on."""
        for module, mixin in self._rebuilt():
            # None is a module or parameter, for which alone the module's own __setattr__ would look.
            vars(module).update(zip(_STATE, (passes, self.index, self.sites), strict=True))
            module.__dict__.pop("forward", None)  # left by libraries that record: it would stand above the class's
            module.__class__ = site_class(type(module), mixin)
        for module, readers in self._norms():
            vars(module)["peft_readers"] = readers

    def release(self) -> None:
        """Give the block its own class back."""
        for module, _ in self._rebuilt():
            module.__class__ = getattr(module, "plain_class", type(module))
            for name in [name for name in vars(module) if name.startswith("peft_") or name == "forward"]:
                del module.__dict__[name]

    def _rebuilt(self) -> Iterator[tuple[nn.Module, type]]:
        yield self.module, self.kind
        yield from ((self.module.get_submodule(path), mixin) for path, mixin in self.kind.site_inner.items())
        act = self.sites["act"].module if "act" in self.sites else None
        for module in (*(norm for norm, _ in self._norms()), *([act] if isinstance(act, nn.Module) else ())):
            if (mixin := saving_mixin(full_name(type(module)))) is not None:
                yield module, mixin

    def _norms(self) -> Iterator[tuple[nn.Module, tuple[Site, ...]]]:
        """The norms that may keep their output, with the sites that read it as it is."""
        if self.norm_behind:
            return
        norms = {name: self.sites[name].module if name in self.sites else None for name in _NORMS}
        for name, norm in norms.items():
            if isinstance(norm, nn.Module) and saving_mixin(full_name(type(norm))) is KeptNorm:
                readers = _NORMS[name] if norms["norm2"] is not None else sum(_NORMS.values(), ())
                if self.kind.site_places is not SiteAttention.site_places:  # windows are cut out of it: copies
                    readers = [one for one in readers if one != "qkv"]
                yield norm, tuple(self.sites[one] for one in readers if one in self.sites)


@functools.lru_cache(maxsize=4096)
def full_name(cls: type) -> str:
    """``package.module.Class``, of the plain class where it was swapped."""
    cls = getattr(cls, "plain_class", cls)
    return f"{cls.__module__}.{cls.__qualname__}"


def block_kinds() -> dict[str, type[SiteBlock]]:
    """The block kinds by the full names of the classes that they read."""
    return {target: kind for kind in BLOCKS.module_dict.values() for target in kind.site_targets}


def read_block(
    module: nn.Module, index: int, stage: int, where: str, kinds: Mapping[str, type[SiteBlock]] | None = None
) -> Block:
    """A block by its class.

    Args:
        module: The backbone's own block.
        index: Its place in the order of all blocks.
        stage: Its stage.
        where: Its name in the backbone, for the error.
        kinds: What :func:`block_kinds` gives, where many blocks are read.

    Raises:
        UserError: No block kind re-states its forward, or that of a module in it.
    """
    kinds = block_kinds() if kinds is None else kinds
    require_plain(module, kinds, where)
    kind = kinds[full_name(type(module))]
    for path, targets in kind.site_parts.items():
        part = _submodule(module, path)
        if part is None and None in targets:
            continue
        own = type(module).__module__
        require_plain(part, tuple(t.replace("{0}", own) for t in targets if t is not None), f"{where}.{path}")
    if why := kind.site_refuses(module):
        raise UserError(f"{where}: {why}")
    return Block(module, kind, index, stage)


def require_plain(module: nn.Module, targets: str | Collection[str], what: str) -> None:
    """Refuse a module whose forward is not one that is re-stated.

    Raises:
        UserError: The module's class is exactly none of ``targets``, or this module has a forward of its own.
    """
    targets = (targets,) if isinstance(targets, str) else targets
    if module is not None and held_name(module) is not None:
        raise UserError(
            f"{what} stands under a {type(module).__name__}: attach the method first and wrap it afterwards."
        )
    if full_name(type(module)) not in targets:
        own = targets if len(targets) < 5 else (f"{len(targets)} other classes (tools/list.py hosts)",)
        raise UserError(
            f"{what} is a {full_name(type(module))}, and only the forward of {' or '.join(own)} is re-stated: a method "
            "attached to it could be skipped without a word. Add a block kind for it (docs/hosts.md)."
        )
    forward = None if module is None else vars(module).get("forward")
    if forward is not None and getattr(forward, "__func__", None) is not type(module).forward:
        raise UserError(
            f"the forward of {what} was replaced on the module itself, and a method attached to it would be skipped: "
            "attach the method first, or take the other library's hook off."
        )


def _shape(module: nn.Module | StatedLinear) -> torch.Size:
    weight = module.weight
    return (weight() if callable(weight) else weight).shape  # quantised ones are refused later, by their name


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module
