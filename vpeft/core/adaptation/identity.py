"""Is everything still what it was when methods were attached?

An adaptation stands on modules of the backbone that it found at attaching. Whoever stores, loads, merges, detaches or
trains asks first whether they are still there: a module that was quantised, pruned, tied, replaced or wrapped by
another library would else be merged into, restored or stored without effect.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from torch import nn

from vpeft.core.adaptation.options.on_host import OnHost
from vpeft.core.backbones.block import HostParam, full_name
from vpeft.core.backbones.host import Host, is_peft_key
from vpeft.core.backbones.sites.stated_linear import StatedLinear
from vpeft.core.backbones.wrappers import kind_of, named_modules
from vpeft.errors import MethodFault, UserError


class Identity:
    """What an adaptation found in the backbone: the modules of its blocks and sites.

    Attributes:
        host: The host.
        places: By the name in the backbone: the module, its class, and the names of its own parameters.

    Raises:
        UserError: The backbone is one that methods cannot be attached to: a module or parameter is used twice, weights
            are quantised, or something stands between a weight and its use.
    """

    def __init__(self, host: Host, params: list[HostParam]) -> None:
        self.host = host
        names = {id(module): name for name, module in named_modules(host.backbone)}
        self.places: dict[str, tuple[nn.Module, str, tuple[str, ...]]] = {}
        blocks, sites = [block.module for block in host.blocks], list(_site_modules(host))
        for module in (*blocks, *sites):
            name = names[id(module)]
            if name in self.places:
                raise UserError(
                    f"{name} is used at several places of this {type(host.backbone).__name__}: a method could not tell "
                    "them apart. Give each place a module of its own (copy.deepcopy)."
                )
            self.places[name] = (module, full_name(kind_of(module)), tuple(module._parameters))
        for module in _holders(host):
            self.places[names[id(module)]] = (module, full_name(kind_of(module)), tuple(module._parameters))
        _require_weights(self.places)
        _require_untied(params)

    def check(self, trained: Collection[str], placed: Iterable[nn.Module]) -> None:
        """Compare with what is there now.

        Args:
            trained: Names of the parameters of the base that the methods train.
            placed: The modules that they have registered.

        Raises:
            UserError: Something was replaced, wrapped, quantised, tied, freed, added or taken away; the message names
                it and says what to do.
        """
        self.check_base()
        self._check_placed(placed)
        self._check_trained(list(self.host.parameters()), trained)

    def check_base(self) -> None:
        """The same of the base alone, whatever is placed on it.

        Raises:
            UserError: Something of it was replaced, wrapped, quantised or tied.
        """
        refuse_frozen_stages(self.host)
        self._check_places()
        _require_weights(self.places)
        _require_untied(list(self.host.parameters()))

    def _check_places(self) -> None:
        now = dict(named_modules(self.host.backbone))
        for name, (module, kind, parameters) in self.places.items():
            here = now.get(name)
            if here is not module:
                found = "is gone" if here is None else f"was replaced (by a {full_name(type(here))})"
            elif full_name(kind_of(module)) != kind:
                found = f"became a {full_name(kind_of(module))}"
            elif tuple(module._parameters) != parameters:
                found = f"holds the parameters {', '.join(module._parameters)} in the place of {', '.join(parameters)}"
            else:
                continue
            raise UserError(
                f"{name} {found} after the method was attached: what is placed there is not known to act. Quantise, "
                "prune, resize or replace parts of the backbone before attaching, or merge first."
            )
        blocks = [block.module for block in self.host.blocks]
        kinds = {getattr(type(block), "plain_class", type(block)) for block in blocks}
        for name, module in now.items():
            # A method may have blocks of the same kind of its own.
            is_own = is_peft_key(name) or any(module is block for block in blocks)
            if type(module) in kinds and not is_own:
                raise UserError(f"{name} was added after the method was attached and is not adapted: detach first.")

    def _check_placed(self, placed: Iterable[nn.Module]) -> None:
        registered = {id(module) for own in placed for module in own.modules()}
        for sites in (self.host.sites, *(block.sites for block in self.host.blocks)):
            for site in sites.values():
                for entry in site.entries:
                    if id(entry.module) not in registered:
                        raise UserError(
                            f"what {entry.key} placed at {site.name} is no longer among the backbone's modules: it was "
                            "replaced after attaching. Detach and attach again."
                        )

    def _check_trained(self, params: list[HostParam], trained: Collection[str]) -> None:
        if lost := sorted(set(trained) - {p.name for p in params}):
            raise UserError(f"{_listed(lost)} of the backbone is trained by the method and is gone: detach first.")
        own = set(trained)
        if freed := [p.name for p in params if p.param.requires_grad and p.name not in own]:
            raise UserError(
                f"{_listed(freed)} of the backbone was freed by hand after attaching and belongs to no method, so that "
                "it would be neither stored nor given back: freeze it again (requires_grad_(False)) if it was not "
                "trained, or attach a method that trains it beside the others (tools/list.py methods)."
            )


def check_count(
    methods: Mapping[str, OnHost], placed: Iterable[tuple[str, nn.Module]], params: list[HostParam]
) -> None:
    """Compare the parameters that each method counts by its formula with those that it has made and trains.

    A formula is stated in the widths of sites; what a method trains beside them (norms of queries, a pooling by
    attention) may be left out of it.

    Args:
        methods: The methods on their host by their keys.
        placed: Key and module of everything that they have registered.
        params: The parameters of the base.

    Raises:
        MethodFault: They differ.
    """
    placed = list(placed)
    for key, method in methods.items():
        own = {id(p): p for one, module in placed if one == key for p in module.parameters()}
        own |= {id(p.param): p.param for p in params if method.trains(p)}
        truth, formula = sum(p.numel() for p in own.values()), method.count()
        beside = sum(p.param.numel() for p in params if p.site is None and method.trains(p))
        if not truth - beside <= formula <= truth:
            name, host = type(method.method).__name__, method.host.registered_name()
            raise MethodFault(
                f"{name} trains {truth:,} parameters of this {host}, and its "
                f"count() says {formula:,}: a fault of the method; mend its formula or what it builds."
            )


def refuse_frozen_stages(host: Host) -> None:
    """Refuse a backbone that freezes some of its blocks by itself: in train mode that takes the methods' modules too.

    Raises:
        UserError: Its ``frozen_stages`` freezes something.
    """
    stages = getattr(host.backbone, "frozen_stages", -1)
    if isinstance(stages, int) and stages >= host.first_frozen:
        raise UserError(
            f"frozen_stages={stages} of the backbone would freeze the method's own parameters of these stages in train "
            f"mode: leave it at its default, {host.first_frozen - 1}. A method freezes the base by itself."
        )


def refuse_unread_blocks(host: Host, trained: Sequence[HostParam]) -> None:
    """Refuse what is placed or trained in blocks behind the last whose output leaves the backbone.

    Args:
        host: The host, with everything placed.
        trained: Parameters of the base that are trained.

    Raises:
        UserError: Something would be trained that leads to nothing.
    """
    behind = host.blocks[max(host.outputs) + 1 :] if host.blocks else []
    asked = {p.block.index for p in trained if p.block is not None}
    used = [b.index for b in behind if b.index in asked or any(site.entries for site in b.sites.values())]
    if used:
        raise UserError(
            f"this {host.registered_name()} gives the outputs of blocks {', '.join(map(str, host.outputs))} alone, and "
            f"what is placed or trained in blocks {', '.join(map(str, used))} leads to nothing: let it give the last "
            "output too (out_indices), build it with fewer blocks, or name those to adapt (blocks=)."
        )


def _site_modules(host: Host) -> Iterator[nn.Module]:
    for sites in (host.sites, *(block.sites for block in host.blocks)):
        yield from (site.module for site in sites.values() if isinstance(site.module, nn.Module))


def _holders(host: Host) -> Iterator[nn.Module]:
    """The modules that hold the weights of stated linears."""
    for block in host.blocks:
        for site in block.sites.values():
            if isinstance(site.module, StatedLinear):
                yield from site.module.holders


def _require_weights(places: dict[str, tuple[nn.Module, str, tuple[str, ...]]]) -> None:
    for name, (module, kind, parameters) in places.items():
        if "weight" not in parameters and hasattr(module, "weight"):
            raise UserError(
                f"{name} ({kind}) computes its weight from {', '.join(parameters) or 'something else'}, which a method "
                "would neither see nor keep: take the quantisation, pruning or weight normalisation off first."
            )
        for key, param in module._parameters.items():
            if param is not None and not param.is_floating_point():
                raise UserError(
                    f"{name}.{key} holds {str(param.dtype).removeprefix('torch.')}: quantised weights cannot be "
                    "adapted. Attach to the model in floating point."
                )


def _require_untied(params: list[HostParam]) -> None:
    seen: dict[int, str] = {}
    for p in params:
        if (first := seen.setdefault(id(p.param), p.name)) != p.name:
            raise UserError(
                f"{first} and {p.name} of the backbone are one parameter: what a method does at one place would be "
                "done at the other. Give each place a parameter of its own."
            )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
