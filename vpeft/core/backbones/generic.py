"""The host of a network that no other host reads.

It has no blocks. Its sites are the linears, convolutions and norms that a probe pass is seen to call, each of them one
plain operation on which the output depends. What is not so is left out by name: weights that are used without a call,
modules that are never called or that change what goes in or comes out, and parameters at two places.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from torch import nn
from torch.nn.parameter import UninitializedParameter

from vpeft.core.backbones.block import HostParam, full_name
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.probing.inputs import Call, call_with, guesses
from vpeft.core.backbones.probing.watch import KINDS, NORM, Seen, watch
from vpeft.core.backbones.shared.checkpointed import Checkpointed
from vpeft.core.backbones.sites.site import Site
from vpeft.core.backbones.wrappers import named_modules, unwrap
from vpeft.errors import UserError

NAME = "generic"
#: Names under which networks hold their task's head, where they do not state it.
HEADS = ("fc", "classifier", "head", "heads")


class GenericBackbone(Checkpointed):
    """A network that was seen to checkpoint re-entrantly, or does so on demand."""

    def reentrant(self) -> bool:
        seen = self.peft_adaptation.host.probed.reentrant and self.training and torch.is_grad_enabled()
        return seen or super().reentrant()


class GenericHost(Host):
    """A network without blocks, read by what a pass has shown.

    Args:
        backbone: The network.
        seen: What was seen.

    Attributes:
        kinds: ``linear``, ``conv`` or ``norm`` of each site by the module's name, in the order of the calls.
    """

    targets: ClassVar[tuple[str, ...]] = ()
    backbone_mixin = GenericBackbone

    def __init__(self, backbone: nn.Module, seen: Seen) -> None:
        self.probed = seen
        self._heads = _head_names(backbone)
        heads = tuple(f"{name}." for name in self._heads)
        inside = {name for name in (*seen.kinds, *seen.reasons) if f"{name}.".startswith(heads)} if heads else set()
        self.kinds = {name: seen.kinds[name] for name in seen.order if name in seen.kinds and name not in inside}
        self._inside = inside
        super().__init__(backbone)

    @classmethod
    def registered_name(cls) -> str:
        return NAME

    def describe(self) -> None:
        self.left_out = {name: why for name, why in self.probed.reasons.items() if name not in self._inside}
        modules = dict(named_modules(self.backbone))
        named = {name: modules[name] for name in self.kinds}
        if not named:
            raise UserError(
                f"no linear, convolution or norm of {type(self.backbone).__name__} can be adapted: {self._some()}."
            )
        self.modules = named
        self.channels_first = {name for name in self.probed.channels_first if self.kinds.get(name) == NORM}
        self.embedding = next(iter(named.values()))
        self.special = _attention_roles(self.backbone) | dict.fromkeys(self.probed.unused, "unused")

    def heads(self) -> list[str]:
        return self._heads

    def operations(self, *kinds: str) -> dict[str, Site]:
        return {name: self.sites[name] for name, kind in self.kinds.items() if kind in kinds}

    def owner(self, site: Site, block: None = None) -> nn.Module:
        """The site's own module: it is no container that runs whatever it holds."""
        return site.module

    @property
    def owners(self) -> list[nn.Module]:
        return list(self.modules.values())

    def place(self, site: str, placement: str, module: nn.Module, name: str, block: None = None) -> None:
        super().place(site, placement, module, placement, block)

    def parameters(self) -> Iterator[HostParam]:
        """As :meth:`Host.parameters`; one that several modules hold is given once, in the role ``shared``."""
        every = list(super().parameters())
        held = (param for module in self.backbone.modules() for param in module._parameters.values())
        places = Counter(id(param) for param in held if param is not None)
        seen: set[int] = set()
        for p in every:
            if id(p.param) not in seen:
                seen.add(id(p.param))
                p.role = "shared" if places[id(p.param)] > 1 else self._role_at(p)
                yield p

    def _role_at(self, p: HostParam) -> str:
        if p.site is None or p.role == "unused":
            return p.role
        norm = "norm_" if self.kinds[p.site] == NORM else ""
        return norm + p.name.rpartition(".")[2]

    def description(self) -> dict[str, Any]:
        """Name, the network's class, and every site with its kind and the shape of its weight."""
        shapes = {name: [kind, *self.modules[name].weight.shape] for name, kind in self.kinds.items()}
        return {"name": NAME, "network": full_name(type(self.backbone)), "sites": shapes, "blocks": []}

    @property
    def output_norms(self) -> list[str]:
        return []

    @property
    def downsamples(self) -> list[int]:
        return []

    def say(self, tried: str) -> None:
        """Say in one line how the network was read."""
        counts = Counter(self.kinds.values())
        found = ", ".join(f"{counts[kind]} {kind}s" for kind in KINDS if counts[kind])
        head = f"; its head {', '.join(self._heads)} stays trainable" if self._heads else "; it holds no head"
        left = f"; left out: {self._some()}" if self.left_out else ""
        print_log(
            f"{full_name(type(self.backbone))} has no host of its own and is read by what a pass with {tried} calls: "
            f"{found}{head}{left}.",
            logger="current",
            level=logging.WARNING if self.left_out else logging.INFO,
        )

    def _some(self, count: int = 3) -> str:
        parts = [f"{name} ({why})" for name, why in list(self.left_out.items())[:count]]
        more = len(self.left_out) - count
        return "; ".join(parts or ["a pass calls none"]) + (f" and {more} more" if more > 0 else "")


def read_generic(model: nn.Module, name: str = "", sample: Any = None) -> GenericHost:
    """The generic host of a network.

    Args:
        model: The model.
        name: The network's name in it; empty for the model itself.
        sample: A call of the model (:func:`~vpeft.core.backbones.probing.inputs.call_with`); None guesses an image for
            the network.

    Raises:
        UserError: No pass runs, or nothing that it calls can be adapted.
    """
    model = unwrap(model)
    network = unwrap(model.get_submodule(name))
    if any(isinstance(param, UninitializedParameter) for param in network.parameters()):
        raise UserError(f"{type(network).__name__} has lazy layers without sizes: run it once before attaching.")
    for part, module in named_modules(network):
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{part or 'the network'} is a TorchScript module, into which nothing can be placed: attach to the "
                "model that it was made of."
            )
    tried, seen = _probe(model, network, sample)
    host = GenericHost(network, seen)
    host.say(tried)
    return host


def _probe(model: nn.Module, network: nn.Module, sample: Any) -> tuple[str, Seen]:
    if sample is not None:
        call = call_with(sample)
        try:
            return "the sample", watch(model, network, lambda: call(model))
        except Exception as error:
            raise UserError(f"{type(model).__name__} does not run with the sample: {_line(error)}") from error
    failed = []
    for shape, guess in guesses(network):
        try:
            return f"an input {shape}", watch(network, network, _bound(guess, network))
        except Exception as error:
            failed.append(f"{shape}: {_line(error)}")
    tried = f"inputs {failed[0]}" if failed else "nothing: it states no size of images and has no convolution"
    others = f" ({len(failed)} shapes were tried)" if len(failed) > 1 else ""
    raise UserError(
        f"no host found in {type(network).__name__}, and what it calls could not be watched: tried {tried}{others}. "
        "Give sample=, a tensor, a tuple of arguments or a dict of keywords that it can be called with."
    )


def _bound(guess: Call, network: nn.Module) -> Any:
    return lambda: guess(network)


def _line(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text[:120]}"


def _head_names(network: nn.Module) -> list[str]:
    """Names of the submodules that are the task's head: as timm states them, else by their usual names."""
    cfg = getattr(network, "pretrained_cfg", None)
    stated = cfg.get("classifier") if isinstance(cfg, dict) else getattr(cfg, "classifier", None)
    stated = [stated] if isinstance(stated, str) else list(stated or HEADS)
    names = {name for name, _ in network.named_modules()}
    found = [name for name in stated if name in names and any(True for _ in network.get_submodule(name).parameters())]
    whole = sum(p.numel() for name in found for p in network.get_submodule(name).parameters())
    return found if whole < sum(p.numel() for p in network.parameters()) else []


def _attention_roles(network: nn.Module) -> dict[str, str]:
    """Weight and bias that ``nn.MultiheadAttention`` holds itself."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_bias is not None:
            found[f"{name}.in_proj_bias" if name else "in_proj_bias"] = "bias"
    return found
