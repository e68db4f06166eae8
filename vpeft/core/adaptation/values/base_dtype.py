"""``base_dtype``: in which precision a frozen base is kept.

``bfloat16`` and ``float16`` halve the frozen parameters and buffers of a float32 base, and it computes in that
precision: what enters it is cast, what leaves it is cast back. Existing parameters that the methods train, and a head
that the backbone holds inside, are float32; the base reads the former rounded.

``int8`` and ``int4`` keep the weights of its frozen linears in few bits (:mod:`vpeft.core.backbones.kept.few_bits`),
and ``["int8", "bfloat16"]`` the rest in half precision besides. While something is merged into such a weight it is
whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from mmengine.logging import print_log
from torch import nn

from vpeft.core.adaptation.fingerprint import digests_by_precision
from vpeft.core.adaptation.values.casts import EntryCast, ExitCast
from vpeft.core.adaptation.values.precision import HALF, dtype_name
from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host, is_peft_key
from vpeft.core.backbones.kept.few_bits import (
    BITS,
    GROUPS,
    check_replaceable,
    group_of,
    quantise,
    replace,
)
from vpeft.core.backbones.kept.masters import read_cast, read_plain
from vpeft.core.backbones.wrappers import named_modules
from vpeft.errors import UserError
from vpeft.registry import nearest

#: Halves that a frozen base may be kept in.
HALVES = {dtype_name(dtype): dtype for dtype in HALF}


class BaseDtype(NamedTuple):
    """What a frozen base is to be kept in.

    Attributes:
        half: ``bfloat16`` or ``float16``; None leaves the precision as it is.
        bits: ``int8`` or ``int4`` for the weights of its linears; None for none.
    """

    half: str | None
    bits: str | None

    def __str__(self) -> str:
        return " and ".join(name for name in (self.bits, self.half) if name)


def named_base_dtype(given: Any) -> BaseDtype | None:
    """What a user has asked for, by name or as a ``torch.dtype``, or as a list of one of few bits and a half.

    Raises:
        UserError: It is none that a frozen base can be kept in.
    """
    if given is None:
        return None
    names = [str(one).removeprefix("torch.") for one in (given if isinstance(given, (list, tuple)) else [given])]
    for name in names:
        if name not in {**HALVES, **BITS}:
            raise UserError(f"base_dtype={given!r} of the frozen base: {nearest(name, {**HALVES, **BITS})}")
    halves, bits = [n for n in names if n in HALVES], [n for n in names if n in BITS]
    if len(halves) > 1 or len(bits) > 1 or not names:
        raise UserError(f"base_dtype={given!r}: one name, or one of few bits with a half, as ['int8', 'bfloat16'].")
    return BaseDtype(next(iter(halves), None), next(iter(bits), None))


class LoweredBase:
    """The frozen base of an adaptation in another precision than it was given in.

    Args:
        host: The host, with everything placed.
        params: The parameters of its base.
        trained: Names of those that the methods train.
        kept: What it is to be kept in.

    Raises:
        UserError: Nothing of the base is frozen; nothing is changed then.
    """

    def __init__(self, host: Host, params: Iterable[HostParam], trained: Iterable[str], kept: BaseDtype) -> None:
        self.host, self.kept = host, kept
        own = set(trained)
        self.trained = [p for p in params if p.name in own]
        self.frozen = [p for p in params if p.name not in own and p.param.is_floating_point()]
        if not self.frozen:
            raise UserError(
                f"base_dtype: the methods train all of the base, nothing of it is frozen to be kept in {kept}: leave "
                "it out."
            )
        self.places = {
            id(param): (module, key)
            for _, module in named_modules(host.backbone)
            for key, param in module._parameters.items()
        }
        self.like = self.places[id(self.frozen[0].param)]
        self.heads = [host.backbone.get_submodule(name) for name in host.heads()]
        self.masters: dict[nn.Module, tuple[str, ...]] = {}
        self.hooks: list[Any] = []
        #: Holder, key and precision of everything that is converted, from before.
        self.before: list[tuple[dict[str, Any], str, torch.dtype]] = []
        self.few = [p for p in self.frozen if kept.bits and self._is_quantised(p)]
        if kept.bits and not self.few:
            raise UserError(f"base_dtype={kept.bits!r}: this base has no frozen linear whose weight could be kept so.")
        check_replaceable(p.param for p in self.few)
        if kept.half:
            self._lower(HALVES[kept.half])
        self._raise()
        for p in self.few:
            replace(p.param, quantise(p.param, kept.bits, digests_by_precision))
        if others := [p.name for p in self.frozen if kept.bits and self._is_linear(p) and p not in self.few]:
            print_log(
                f"base_dtype: {len(self.few)} linears are kept in {kept.bits}; {len(others)} such as {others[0]} stay "
                f"as they are, since their rows are no multiple of {GROUPS[-1]}.",
                logger="current",
            )

    def _is_linear(self, p: HostParam) -> bool:
        module, key = self.places[id(p.param)]
        return key == "weight" and isinstance(module, nn.Linear) and not p.param.is_meta

    def _is_quantised(self, p: HostParam) -> bool:
        return self._is_linear(p) and (self.kept.bits == "int8" or group_of(p.param.shape[-1]) is not None)

    def start(self) -> None:
        """Let the base run so from now on; the backbone runs through its sites already."""
        self._keep_masters()
        self.hooks += [
            self.host.embedding.register_forward_pre_hook(EntryCast(self.like), with_kwargs=True),
            self.host.backbone.register_forward_hook(ExitCast(self.like), with_kwargs=True),
        ]
        for head in self.heads:
            if (own := _floating(head)) is not None:
                self.hooks.append(head.register_forward_pre_hook(EntryCast(own), with_kwargs=True))

    def around(self, modules: Iterable[nn.Module]) -> None:
        """Cast also what modules that hold the backbone give, which may call it by another way than its forward."""
        self.hooks += [module.register_forward_hook(ExitCast(self.like), with_kwargs=True) for module in modules]

    def share(self, trained: Iterable[str]) -> None:
        """Serve another adapter on the same base too.

        Raises:
            UserError: It trains parameters of the base that are not kept for training.
        """
        if lacking := set(trained) - {p.name for p in self.trained}:
            raise UserError(
                f"{min(lacking)} would be trained, and the base was brought to {self.kept} with it frozen: attach the "
                "adapter that trains existing parameters first, or to a base without base_dtype."
            )

    def _lower(self, dtype: torch.dtype) -> None:
        for p in self.frozen:
            module, key = self.places[id(p.param)]
            self._convert(module._parameters, key, dtype)
        heads = {id(module) for head in self.heads for module in head.modules()}
        for name, module in named_modules(self.host.backbone):
            for key, value in module._buffers.items() if not is_peft_key(name) and id(module) not in heads else ():
                if value is not None and value.is_floating_point():
                    self._convert(module._buffers, key, dtype)

    def _raise(self) -> None:
        """Make what is trained float32."""
        trained = [self.places[id(p.param)] for p in self.trained]
        trained += [(part, key) for head in self.heads for part in head.modules() for key in part._parameters]
        for module, key in trained:  # small steps would vanish in the rounding of half ones
            if getattr(module._parameters[key], "dtype", None) in HALF:
                self._convert(module._parameters, key, torch.float32)

    def _convert(self, held: dict[str, Any], key: str, dtype: torch.dtype) -> None:
        self.before.append((held, key, held[key].dtype))
        _to(held, key, dtype)

    def _keep_masters(self) -> None:
        """Let the base read what is trained rounded."""
        for p in self.trained:
            module, key = self.places[id(p.param)]
            if p.param.is_floating_point() and p.param.dtype is not self.frozen[0].param.dtype:
                self.masters[module] = (*self.masters.get(module, ()), key)
        read_cast(self.masters, self.like)
        if self.masters:
            count = sum(p.param.numel() for p in self.trained)
            print_log(
                f"base_dtype: the base is kept in {self.kept}; {count:,} existing parameters that the method trains "
                f"are {dtype_name(self.trained[0].param.dtype)}, and the base reads them rounded.",
                logger="current",
            )

    def release(self) -> None:
        """Leave a plain base of the precision that it had; its values are rounded."""
        for hook in self.hooks:
            hook.remove()
        read_plain(self.masters)
        for p in self.few:
            replace(p.param, p.param.read())
        for held, key, dtype in self.before:
            _to(held, key, dtype)


def _to(held: dict[str, Any], key: str, dtype: torch.dtype) -> None:
    if isinstance(held[key], nn.Parameter):
        held[key].data = held[key].data.to(dtype)
    else:
        held[key] = held[key].to(dtype)


def _floating(module: nn.Module) -> tuple[nn.Module, str] | None:
    """Where the first floating parameter of a module is."""
    for part in module.modules():
        for key, param in part._parameters.items():
            if param is not None and param.is_floating_point():
                return part, key
    return None
