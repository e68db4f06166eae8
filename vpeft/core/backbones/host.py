"""Hosts: backbones read through one vocabulary of sites.

A host is one file that states, for one backbone class, the order of its blocks, its embedding, its prefix and its
norms; what a block is, its block kind states (:mod:`vpeft.core.backbones.block_forward`). Everything else is here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from vpeft.core.backbones.block import Block, HostParam, block_kinds, read_block
from vpeft.core.backbones.block_forward import SiteBackbone, site_class
from vpeft.core.backbones.names import check_module_name
from vpeft.core.backbones.roles import existing_parameters
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.pass_hooks import pass_hooks
from vpeft.core.backbones.sites.passes import FOLDS_CLIPS, Passes
from vpeft.core.backbones.sites.site import PLACEMENTS, Placed, Site, hook_site
from vpeft.errors import UserError
from vpeft.registry import HOSTS, nearest

#: Component of every key of a PEFT parameter; base keys never contain it.
PEFT_KEY = "peft"
_ATTENTION = ("norm1", "qkv", "core", "proj", "attn_branch", "attn_residual")
#: Attribute of a backbone whose outputs are read from outside (:class:`ReadOutside`).
READ_OUTSIDE = "vpeft_read_outside"


class ReadOutside(NamedTuple):
    """What is read of a backbone that itself does not know it.

    Attributes:
        levels: The blocks, or the stages of a backbone that has them, whose outputs are read.
        as_maps: Whether they are read as maps.
        normed: Whether the last of them is read behind the output norm.
    """

    levels: tuple[int, ...]
    as_maps: bool
    normed: bool


class Host:
    """A backbone with its sites. Made by :func:`find_host`; nothing is changed until :meth:`adopt`.

    A subclass sets the class attributes, states blocks, embedding, norms and prefix in :meth:`describe`, and registers
    itself in ``HOSTS`` under ``<package>.<class>``.

    Attributes:
        targets: Full names of the backbone classes that it reads.
        refused: Why its library's own forward of a class with the same blocks is wrong, by the class's full name.
        backbone_mixin: What is added to the backbone itself.
        first_frozen: The smallest ``frozen_stages`` at which such a backbone freezes anything.
        carries_tokens: Tokens off the map can pass from one stage to the next (:meth:`downsample_tokens`).
        frames_first: Clips that the embedding sees are ``(B, T, C, H, W)``.
        embedding: The module that every forward pass begins with, however the backbone is called; it sees the image.
        prefix: Tokens before the map in the stream.
        patch_size: Height and width of a patch in pixels.
        in_channels: Channels of what one patch sees: of the image, in video times the frames of a tubelet.
        frames_in: Where the frames of a clip stand, ``tokens`` of a stream or images of a ``batch``; else empty.
        pools_map, reads_map: The head reads the mean of the map's tokens, not a class token; or maps, in dense tasks.
        fixed_width, pools_tokens: What of the base is behind the output norm reads the host's own width; or all tokens.
        outputs: Indices of the blocks whose outputs leave the backbone; the last one by default.
        adds_between: The backbone adds something of its own to the stream between its blocks.
        flat_stream: Outside its blocks the stream is ``(B, H*W, C)``, not ``(B, H, W, C)``.
        modules: Backbone-level sites that are modules: ``patch_embed``, ``patch_norm``, ``downsample<s>.norm``,
            ``downsample<s>.reduction`` (leading to stage s), ``norm.<i>`` of each output, ``pool_norm`` of pooled
            features.
        identities: Such sites at which the backbone calls a module without weights, as for an output norm left out.
        channels_first: Sites of ``modules`` whose output is ``(B, C, H, W)`` though no convolution tells so.
        special: Roles of parameters by their names in the backbone: ``pos_embed``, ``cls_token``.
        left_out: Why each module that could be a site is none, by name; only of the generic host.
        table: The position table ``(..., N, C)`` that is added to the patch embedding's output next, and its first row
            that belongs to the map; None without.
    """

    targets: ClassVar[tuple[str, ...]]
    refused: ClassVar[dict[str, str]] = {}
    backbone_mixin: ClassVar[type[SiteBackbone]] = SiteBackbone
    first_frozen: ClassVar[int] = 0
    carries_tokens: ClassVar[bool] = True
    frames_first: ClassVar[bool] = False

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone
        self.passes = Passes()
        self.blocks: list[Block] = []
        self.modules: dict[str, nn.Module] = {}
        self.identities: dict[str, nn.Module] = {}
        self.channels_first: set[str] = set()
        self.special: dict[str, str] = {}
        self.table: tuple[nn.Parameter, int] | None = None
        self.left_out: dict[str, str] = {}
        self.embedding: nn.Module | None = None
        self.prefix, self.patch_size = 0, (1, 1)
        self.in_channels, self.frames_in = 3, "batch" if getattr(backbone, FOLDS_CLIPS, False) else ""
        self.pools_map = self.reads_map = self.fixed_width = self.pools_tokens = False
        self.outputs: list[int] = []
        self.adds_between, self.flat_stream = False, True
        self.method_key = ""
        #: Where it is a part of a host: which (:mod:`vpeft.core.adaptation.options.part`), and what differs there.
        self.part: Any = None
        self.varies = ""
        #: The base's own head, by name, where a method has put one of another width in its place.
        self.plain_heads: dict[str, nn.Module] = {}
        self.hooks: list[Any] = []
        self.describe()
        self._read_outside()
        self.outputs = self.outputs or [len(self.blocks) - 1]
        self.embedding = self.modules["patch_embed"] if self.embedding is None else self.embedding
        self.passes.last = len(self.blocks) - 1
        self.passes.base = (self.modules.get("patch_embed", self.embedding), "weight")
        self._make_sites()

    @property
    def whole(self) -> Host:
        """The host itself, of which this may be a part with some of the blocks."""
        return self if self.part is None else self.part.host

    @classmethod
    def registered_name(cls) -> str:
        """Its name in ``HOSTS``."""
        return next(name for name, host in HOSTS.module_dict.items() if host is cls)

    @property
    def flow(self) -> Flow:
        """The pass that runs in this thread, or ran last."""
        return self.passes.current

    def _read_outside(self) -> None:
        read = self.read_outside = getattr(self.backbone, READ_OUTSIDE, None)
        if read is None:
            return
        stages = max(block.stage for block in self.blocks)
        last = {block.stage if stages else block.index: block.index for block in self.blocks}
        self.outputs, self.reads_map = [last[level] for level in read.levels], read.as_maps
        if not read.normed:
            for named in (self.modules, self.identities):
                for name in [name for name in named if name.startswith("norm.")]:
                    del named[name]

    # What a host states -------------------------------------------------------------------------------------------

    def describe(self) -> None:
        """State blocks (:meth:`add_blocks`), embedding (:meth:`embeds`), norms (:meth:`add_sites`) and prefix."""
        raise NotImplementedError(f"{type(self).__name__} states no describe(): docs/hosts.md says what a host states.")

    def add_blocks(self, blocks: Iterable[nn.Module], where: str, stage: int = 0) -> None:
        """Add blocks in their order.

        Args:
            blocks: The backbone's own blocks.
            where: The name of what holds them, for errors: ``blocks`` gives ``blocks.3``.
            stage: Their stage.

        Raises:
            UserError: No block kind reads one of them.
        """
        kinds = block_kinds()
        for position, module in enumerate(blocks):
            self.blocks.append(read_block(module, len(self.blocks), stage, f"{where}.{position}", kinds))

    def embeds(self, projection: nn.Module, embedding: nn.Module | None = None) -> None:
        """State the patch embedding: its projection, a convolution, and the module around it that sees the image."""
        self.modules["patch_embed"] = projection
        self.embedding = embedding or projection
        *tubelet, height, width = projection.kernel_size
        self.patch_size = (height, width)
        self.in_channels = projection.in_channels * math.prod(tubelet)
        self.frames_in = "tokens" if tubelet else self.frames_in

    def positions(self, name: str, first: int) -> None:
        """State the position table that is added to the patch embedding's output, and its first row of the map."""
        self.special[name] = "pos_embed"
        self.table = (self.backbone.get_parameter(name), first)

    def add_sites(self, **modules: nn.Module | None) -> None:
        """Add sites of the backbone; what is None or has no weights is left out.

        Args:
            modules: By name, with ``_`` for the point in ``norm.0`` and ``downsample1.norm``: ``norm_0``.
        """
        for name, module in modules.items():
            if name.startswith(("norm_", "downsample")):
                name = name.replace("_", ".")
            if module is not None and not isinstance(module, nn.Identity):
                self.modules[name] = module

    def map_size(self, inputs: Tensor, embedded: Any) -> tuple[int, ...]:
        """Extents of the first token map, from input and output of the embedding (by default a convolution)."""
        return tuple(embedded.shape[2:])

    def seen(self, args: tuple[Any, ...], embedded: Any, **given: Any) -> tuple[int, ...]:
        """The same from all arguments of the embedding, where the first does not tell."""
        return self.map_size(args[0], embedded)

    def downsample_tokens(self, stage: int, tokens: Tensor) -> Tensor:
        """Tokens ``(B, P, C)`` off the map through the patch merging that leads to ``stage``: four copies of each."""
        return self.merge_patches(stage, tokens.repeat(1, 1, 4))

    def merge_patches(self, stage: int, patches: Tensor) -> Tensor:
        """Four patches side by side ``(B, P, 4 C)``, normed and reduced in the order that the norm's width tells."""
        norm, reduction = (self.modules.get(f"downsample{stage}.{part}") for part in ("norm", "reduction"))
        if norm is None:
            return reduction(patches)
        ahead = norm.weight.shape[0] == patches.shape[-1]
        return reduction(norm(patches)) if ahead else norm(reduction(patches))

    def downsample_map(self, stage: int, tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
        """A map's tokens ``(B, H*W, C)`` of the extents ``grid`` through the patch merging that leads to ``stage``."""
        raise NotImplementedError(f"{type(self).__name__} has no patch merging")

    def run_base(self, operation: Callable[..., Tensor], x: Tensor, *args: Any) -> Tensor:
        """An operation of the base on a tensor of an adapter's, which may be of another precision."""
        dtype = getattr(*self.passes.base).dtype
        return operation(x.to(dtype), *args).to(x.dtype)

    @property
    def image_channels(self) -> int:
        """Channels of the images or clips that the embedding sees; 0 where it is given patches."""
        found = (m.in_channels for m in self.embedding.modules() if isinstance(m, nn.modules.conv._ConvNd))
        return next(found, 0)

    def last_block(self, norm: str) -> Block:
        """The block whose output the output norm ``norm`` reads."""
        return self.blocks[-1]

    def resize_head(self, width: int) -> None:
        """Give the head that the backbone holds inside (:meth:`heads`) inputs of ``width``; a new start for it."""

    def heads(self) -> list[str]:
        """Names of the submodules that are the task's head, not the backbone (timm keeps it inside)."""
        return []

    # Sites ----------------------------------------------------------------------------------------------------------

    def _make_sites(self) -> None:
        self.sites = {
            name: Site(
                name,
                self.passes,
                channels_first=name in self.channels_first or isinstance(module, nn.modules.conv._ConvNd),
                pointwise=name in self.channels_first,
                module=module,
            )
            for name, module in {**self.modules, **self.identities}.items()
        }
        if self.blocks and self.image_channels:
            self.sites["image"] = Site("image", self.passes, allowed=("before",), called=self.embedding)
            self.sites["image"].frames_first = self.frames_first
        if self.table is not None and "patch_norm" not in self.sites:
            self.sites["patch_embed"].table = self.table
        for block in self.blocks:
            block.host = self
            block.make_sites(self.passes)

    def place(self, site: str, placement: str, module: nn.Module, name: str, block: Block | None = None) -> None:
        """Put ``module`` at a site of ``block``, or of the backbone where ``block`` is None.

        Args:
            site: Name of the site.
            placement: One of :data:`~vpeft.core.backbones.sites.site.PLACEMENTS`.
            module: Called as ``module(x, flow)``; with ``affine()`` it can be merged.
            name: Its name among the method's modules at this block.
            block: The block, or None for a site of the backbone itself.

        Raises:
            UserError: The host lacks the site, or the site the placement.
        """
        sites = block.sites if block else self.sites
        where = f"block {block.index} of " if block else ""
        if site not in sites:
            why = "its blocks have no attention. " if site in _ATTENTION and block and "qkv" not in sites else ""
            why = "blocks= leaves it out. " if block is None and site in self.whole.sites else why
            name = self.registered_name()
            raise UserError(f"{self.method_key}: {where}host {name} has no site {site!r}: {why}{nearest(site, sites)}")
        if placement not in sites[site].allowed:
            raise UserError(
                f"{self.method_key}: site {site!r} of host {self.registered_name()} takes no placement {placement!r}: "
                f"it takes {', '.join(sites[site].allowed)} (of {', '.join(PLACEMENTS)})."
            )
        self._register(self.owner(sites[site], block), module, name, block)
        sites[site].entries.append(Placed(placement, module, self.method_key))

    @property
    def holder(self) -> nn.Module:
        """The module that holds what methods place at the backbone itself."""
        return self.backbone

    def keep(self, module: nn.Module, name: str, block: Block | None = None) -> None:
        """Register ``module`` under ``peft.<method>.<name>`` of the block or the backbone, without a site."""
        self._register(block.module if block else self.holder, module, name, block)

    def owner(self, site: Site, block: Block | None = None) -> nn.Module:
        """The module that holds what is placed at a site of ``block``, or of the backbone."""
        return block.module if block else self.holder

    @property
    def owners(self) -> list[nn.Module]:
        """Every module that may hold PEFT modules."""
        return [self.holder, *(block.module for block in self.blocks)]

    def operations(self, *kinds: str) -> dict[str, Site]:
        """Sites of single operations on a host without blocks, by name; none on the others.

        Args:
            kinds: Any of ``linear``, ``conv``, ``norm``.
        """
        return {}

    def _register(self, owner: nn.Module, module: nn.Module, name: str, block: Block | None) -> None:
        if PEFT_KEY not in owner._modules:
            owner.add_module(PEFT_KEY, nn.ModuleDict())
        methods = getattr(owner, PEFT_KEY)
        if self.method_key not in methods:
            methods[self.method_key] = nn.ModuleDict()
        own = methods[self.method_key]
        if name in own and self.varies:
            raise UserError(f"{self.varies} must be the same in these blocks: they share {name!r}.")
        check_module_name(name, own, self.method_key, block)
        own[name] = module

    # Taking over and giving back ------------------------------------------------------------------------------------

    def adopt(self) -> None:
        """Run the backbone through its sites from now on; where it does, through what was placed since, too."""
        if not self.hooks:
            for block in self.blocks:
                block.adopt(self.passes)
            self.backbone.__class__ = site_class(type(self.backbone), self.backbone_mixin)
            self.hooks = [*pass_hooks(self)]
        for site in self.every_site():
            self.hooks += hook_site(site)
        self.passes.renew()

    def every_site(self) -> Iterator[Site]:
        """The sites of the backbone, and of its blocks."""
        for sites in (self.sites, *(block.sites for block in self.blocks)):
            yield from sites.values()

    def clear(self) -> None:
        """Take away what methods have placed."""
        for module in self.owners:
            module._modules.pop(PEFT_KEY, None)
        for site in self.every_site():
            site.entries, site.widths, site.root = [], None, None
        for name, head in self.plain_heads.items():
            setattr(self.backbone, name, head.to(next(getattr(self.backbone, name).parameters())))
        self.plain_heads, self.passes.noisy, self.passes.read_later, self.passes.unheard = {}, False, False, None

    def release(self) -> None:
        """Give the backbone back as it was: classes, hooks, and no PEFT module."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        self.backbone.__class__ = getattr(self.backbone, "plain_class", type(self.backbone))
        self.clear()
        for block in self.blocks:
            block.release()
        self._make_sites()

    # Existing parameters --------------------------------------------------------------------------------------------

    def parameters(self) -> Iterator[HostParam]:
        """Every parameter of the base with its role; PEFT parameters and the head are left out."""
        return iter(existing_parameters(self, PEFT_KEY) if self.part is None else self.part.parameters())

    def loose(self, *roles: str) -> int:
        """Numbers in parameters of these roles that stand at no site, as in the MLP of Swin V2's positions."""
        return sum(p.param.numel() for p in self.parameters() if p.role in roles and p.site is None)

    def description(self) -> dict[str, Any]:
        """What an adapter file says of the host: name, and per block stage, width, heads and hidden width."""
        return {
            "name": self.registered_name(),
            "prefix": self.prefix,
            "patch_size": list(self.patch_size),
            "blocks": [[b.stage, b.dim, b.heads, b.hidden] for b in self.blocks],
        }

    @property
    def output_norms(self) -> list[str]:
        """Names of the sites of the output norms, in order."""
        return [name for name in self.sites if name.startswith("norm.")]

    @property
    def downsamples(self) -> list[int]:
        """Stages that a patch merging leads to."""
        return [
            int(name.removeprefix("downsample").split(".")[0]) for name in self.modules if name.endswith(".reduction")
        ]


def is_peft_key(key: str) -> bool:
    """Whether a state-dict key belongs to a PEFT module: one of its components is ``peft``."""
    return PEFT_KEY in key.split(".")
