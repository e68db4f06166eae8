"""What is trained, where it sits, and how much it is."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import adaptations, find_adaptations
from vpeft.core.adaptation.storing.adapter_file import stored_bytes
from vpeft.core.adaptation.values.precision import Precision, precisions
from vpeft.core.backbones.wrappers import named_modules


@dataclass
class Report:
    """Parameters of an adapted model.

    Attributes:
        host: Name of the host; where several backbones are adapted, that of each behind its own name.
        methods: Configs of the methods.
        trainable_without_head: Trained parameters of the adapted backbones, PEFT modules included.
        head: Trained parameters outside of them.
        total: Their sum.
        frozen: Parameters that are not trained.
        rel_pos_tables: Relative-position-bias tables among ``trainable_without_head``.
        sites: Rows of (site, placement, method, modules, parameters).
        existing: Rows of (role, tensors, parameters) of the base's own parameters that are trained.
        outside: What ``head`` consists of: parameters by the name of the part of the model that holds them.
        stored_bytes: Bytes of the tensors that an adapter file holds without the head.
        stored_head_bytes: The same of the head.
        precision: The types of the numbers.
        left_out: Why each linear, convolution or norm that the generic host leaves alone is left alone, by name.
    """

    host: str
    methods: list[dict[str, Any]]
    trainable_without_head: int = 0
    head: int = 0
    total: int = 0
    frozen: int = 0
    rel_pos_tables: int = 0
    sites: list[tuple[str, str, str, int, int]] = field(default_factory=list)
    existing: list[tuple[str, int, int]] = field(default_factory=list)
    outside: dict[str, int] = field(default_factory=dict)
    stored_bytes: int = 0
    stored_head_bytes: int = 0
    precision: Precision = field(default_factory=Precision)
    left_out: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def parameter_report(model: nn.Module) -> Report:
    """Count the parameters of a model with a method attached.

    Raises:
        UserError: Nothing is attached.
    """
    found = find_adaptations(model)
    names = {prefix: prefix.removesuffix(".") for prefix in found}
    hosts = {prefix: one.host.registered_name() for prefix, one in found.items()}
    methods = [[method.config() for method in one.methods.values()] for one in found.values()]
    report = Report(
        next(iter(hosts.values())) if len(found) == 1 else ", ".join(f"{names[p]}: {hosts[p]}" for p in found),
        methods[0] if all(own == methods[0] for own in methods) else [config for own in methods for config in own],
    )
    report.outside = trained_outside(model)
    report.head = sum(report.outside.values())
    report.total = sum(param.numel() for param in model.parameters() if param.requires_grad)
    report.frozen = sum(param.numel() for param in model.parameters() if not param.requires_grad)
    report.trainable_without_head = report.total - report.head
    roles: dict[str, list[int]] = {}
    for prefix, one in found.items():
        _sites(one, report, prefix if len(found) > 1 else "")
        report.left_out |= {prefix + name: why for name, why in one.host.left_out.items()}
        for p in one.trained_parameters():
            roles.setdefault(p.role, []).append(p.param.numel())
    report.existing = [(role, len(sizes), sum(sizes)) for role, sizes in sorted(roles.items())]
    report.rel_pos_tables = sum(roles.get("rel_pos_bias", []))
    report.stored_bytes = stored_bytes(model, head=False)
    report.stored_head_bytes = stored_bytes(model) - report.stored_bytes
    adapters = [module for one in found.values() for module in one.peft_modules()]
    report.precision = precisions([one.host for one in found.values()], adapters, model)
    return report


def trained_outside(model: nn.Module, others: Collection[str] = ()) -> dict[str, int]:
    """Trained parameters outside the adapted backbones, or in their heads, by the part that holds no backbone.

    Args:
        model: The model.
        others: Prefixes of the keys of backbones that are not adapted.
    """
    found, inside = adaptations(model), set()
    for one in found.values():
        inside |= {id(p) for p in one.host.backbone.parameters()}
        for name in one.host.heads():
            inside -= {id(p) for p in one.host.backbone.get_submodule(name).parameters()}
    outside: dict[str, int] = {}
    for name, module in named_modules(model):
        for key, param in module._parameters.items():
            if param is not None and param.requires_grad and id(param) not in inside:
                inside.add(id(param))
                part = _part(f"{name}.{key}".lstrip("."), {*found, *others})
                outside[part] = outside.get(part, 0) + param.numel()
    return outside


def _part(name: str, prefixes: Iterable[str]) -> str:
    """The outermost part of a model that holds the parameter and no backbone."""
    parts = name.split(".")
    for count in range(1, len(parts)):
        part = ".".join(parts[:count])
        if not any(prefix.startswith(f"{part}.") for prefix in prefixes):
            return part
    return name


def _sites(adaptation: Adaptation, report: Report, prefix: str) -> None:
    rows: dict[tuple[str, str, str], list[int]] = {}
    host = adaptation.host
    placed: set[int] = set()
    for sites in (host.sites, *(block.sites for block in host.blocks)):
        for site in sites.values():
            for entry in site.entries:
                placed.add(id(entry.module))
                size = sum(p.numel() for p in entry.module.parameters())
                if size:
                    rows.setdefault((prefix + site.name, entry.placement, entry.key), []).append(size)
    for key, module in adaptation.peft_items():
        size = sum(p.numel() for p in module.parameters())
        if size and id(module) not in placed:
            rows.setdefault((f"{prefix}shared", "", key), []).append(size)
    report.sites += [(*key, len(sizes), sum(sizes)) for key, sizes in rows.items()]


def render(report: Report) -> str:
    """The report as text."""
    from rich.console import Console
    from rich.table import Table

    names = ", ".join(m["type"] for m in report.methods)
    table = Table(title=f"{names} on {report.host}", title_justify="left")
    for column, side in zip(("site", "placement", "method", "modules", "parameters"), "lllrr", strict=True):
        table.add_column(column, justify="right" if side == "r" else "left")
    for site, placement, method, modules, size in report.sites:
        table.add_row(site, placement, method, str(modules), f"{size:,}")
    for role, tensors, size in report.existing:
        table.add_row("existing", role, "", str(tensors), f"{size:,}")
    tables = f" (of which relative-position tables {report.rel_pos_tables:,})" if report.rel_pos_tables else ""
    console = Console(width=100, no_color=True)
    with console.capture() as capture:
        if report.sites or report.existing:
            console.print(table)
        parts = ", ".join(f"{name} {size:,}" for name, size in report.outside.items())
        console.print(
            f"trainable without head {report.trainable_without_head:,}{tables}, head {report.head:,}"
            f"{f' ({parts})' if len(report.outside) > 1 else ''}, total {report.total:,}; frozen {report.frozen:,}"
        )
        console.print(
            f"an adapter file holds {report.stored_bytes:,} bytes of it, and {report.stored_head_bytes:,} of the head"
        )
        for line in report.precision.lines():
            console.print(line)
        for name, why in report.left_out.items():
            console.print(f"left out: {name} ({why})")
    return capture.get().rstrip()
