"""Backbones whose own class is unknown, found by their blocks: those that a registered kind reads."""

from __future__ import annotations

import math
import sys
from typing import Any

from torch import Tensor, nn

from vpeft.core.backbones.block import block_kinds, full_name, read_block
from vpeft.core.backbones.host import Host, is_peft_key
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import Passes
from vpeft.core.backbones.wrappers import named_modules
from vpeft.errors import UserError
from vpeft.registry import BLOCKS

Named = tuple[str, nn.Module]
_CONTAINERS = (nn.ModuleList, nn.Sequential, nn.ModuleDict)


def found_in(model: nn.Module) -> dict[str, nn.Module]:
    """The smallest module of ``model`` that holds all blocks of registered kinds and their patch embedding, by name.

    Empty where there are no such blocks, or no convolution before them gives their width.

    Raises:
        UserError: Some of the blocks lie outside the smallest module that holds the embedding and blocks, as those of
            a text encoder do beside an image encoder.
    """
    blocks, modules = _blocks(model), dict(named_modules(model))
    stem = next((name for name, _ in _convolutions(model, blocks)), None)
    if not blocks or stem is None:
        return {}
    parts = stem.split(".")[:-1]
    while not any(_within(name, parts) for name, _ in blocks):
        parts.pop()
    # Members of a list are stages of one backbone, and a list itself is called by nobody.
    while parts and (_type(modules, parts) in _CONTAINERS or _type(modules, parts[:-1]) in _CONTAINERS[:2]):
        parts.pop()
    where = ".".join(parts)
    if _projection(modules[where]) is None:
        return {}
    if other := next((name for name, _ in blocks if not _within(name, parts)), None):
        raise UserError(
            f"this {type(model).__name__} has blocks in {where} and outside of it ({other}), as of two encoders: "
            f"attach to one of them, vpeft.attach(model.{where}, ...)."
        )
    return {where: modules[where]}


class FoundPasses(Passes):
    """Passes whose prefix is what the stream has besides the map; blocks run in their order, each once."""

    def look(self, flow: Flow, before: int, x: Tensor) -> None:
        """Work the prefix out, and refuse blocks that this pass does not lead to."""
        if flow.index != before + 1 or math.prod(flow.grid) == 0:
            raise UserError(
                f"block {flow.index} runs after {'block ' + str(before) if before >= 0 else 'no other'}: blocks that "
                "are found by their kind must run in the order in which they are defined, in a pass that begins with "
                "the patch embedding."
            )
        count = x.shape[1] - math.prod(flow.grid) if x.dim() == 3 else 0
        if count < 0 or (before >= 0 and count != flow.own_prefix):
            raise UserError(
                f"block {flow.index} gets {x.shape[1]} tokens, which are not those of its map of "
                f"{'x'.join(map(str, flow.grid))} behind {flow.own_prefix} others: its backbone has no host, and what "
                "its tokens are cannot be worked out. Add a host (docs/hosts.md)."
            )
        flow.own_prefix = flow.prefix = count

    def close(self) -> None:
        flows = [flow for flow in self._here.flows if 0 <= flow.index < self.last]
        super().close()
        if flows and sys.exc_info()[0] is None:  # an error of the pass itself says more
            raise UserError(
                f"blocks {flows[0].index + 1} to {self.last} have not run: they are of another pass than the patch "
                "embedding is. Attach to a module that holds the blocks of one pass alone."
            )


class FoundHost(Host):
    """A backbone of any class that is made of blocks of registered kinds; tokens off the map stand first.

    It has the sites of its blocks and of its patch embedding, and no output norms.
    """

    targets = ()

    def describe(self) -> None:
        self.passes = FoundPasses()
        stage, width = -1, 0
        for name, module in _blocks(self.backbone):
            block = read_block(module, len(self.blocks), stage, name)
            if block.dim != width:
                stage, width = stage + 1, block.dim
            block.stage = stage
            self.blocks.append(block)
        self.embeds(_projection(self.backbone))

    @property
    def holder(self) -> nn.Module:
        """The patch embedding: the backbone may be a list of modules that runs whatever is in it."""
        return self.whole.modules["patch_embed"]

    def registered_name(self) -> str:
        """What it is made of: the names of its kinds."""
        names = {kind: name for name, kind in BLOCKS.module_dict.items()}
        return "backbone of " + ", ".join(dict.fromkeys(names[block.kind] for block in self.blocks))

    def description(self) -> dict[str, Any]:
        """The same without the prefix, which is known in a pass alone."""
        return {key: value for key, value in super().description().items() if key != "prefix"}

    def heads(self) -> list[str]:
        """What the backbone names as its classifier, else the linears behind its blocks."""
        named = {id(module): name for name, module in self.backbone.named_modules() if name}
        if hasattr(self.backbone, "get_classifier"):
            given = self.backbone.get_classifier()
            return [named[id(m)] for m in (given if isinstance(given, tuple) else (given,)) if id(m) in named]
        children = list(self.backbone.named_children())
        last = max(
            i for i, (_, child) in enumerate(children) if any(m is self.blocks[-1].module for m in child.modules())
        )
        return [name for name, child in children[last + 1 :] if isinstance(child, nn.Linear)]


def _blocks(model: nn.Module) -> list[Named]:
    kinds = block_kinds()
    found: list[Named] = []
    for name, module in named_modules(model):
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)
        kind = None if inside or is_peft_key(name) else kinds.get(full_name(type(module)))
        if kind is not None and kind.site_reads(module):
            found.append((name, module))
    return found


def _convolutions(model: nn.Module, blocks: list[Named]) -> list[Named]:
    """Convolutions outside of blocks that mix channels, as they are defined."""
    return [
        (name, module)
        for name, module in named_modules(model)
        if isinstance(module, nn.modules.conv._ConvNd) and module.groups == 1 and not is_peft_key(name)
        if not any(name.startswith(f"{block}.") for block, _ in blocks)
    ]


def _projection(backbone: nn.Module) -> nn.Module | None:
    """The last convolution before the first block that gives its width."""
    blocks, modules = _blocks(backbone), [module for _, module in named_modules(backbone)]
    name, first = blocks[0]
    width, before = read_block(first, 0, 0, name).dim_in, modules[: modules.index(first)]
    found = [conv for _, conv in _convolutions(backbone, blocks) if conv in before and conv.out_channels == width]
    return found[-1] if found else None


def _within(name: str, parts: list[str]) -> bool:
    return name.split(".")[: len(parts)] == parts


def _type(modules: dict[str, nn.Module], parts: list[str]) -> type:
    cls = type(modules[".".join(parts)])
    return getattr(cls, "plain_class", cls)
