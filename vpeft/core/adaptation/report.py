"""What is trained, where it sits, and how much it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptation

#: The constant C of PPT (survey arXiv 2402.02242).
PPT_CONSTANT = 1e7


@dataclass
class Report:
    """Parameters of an adapted model.

    Attributes:
        host: Name of the host.
        methods: Configs of the methods.
        trainable_without_head: Trained parameters of the backbone, PEFT modules included.
        head: Trained parameters outside the backbone.
        total: Their sum.
        frozen: Parameters that are not trained.
        rel_pos_tables: Relative-position-bias tables among ``trainable_without_head``.
        sites: Rows of (site, placement, method, modules, parameters).
        existing: Rows of (role, tensors, parameters) of the base's own parameters that are trained.
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

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def parameter_report(model: nn.Module) -> Report:
    """Count the parameters of a model with a method attached.

    Raises:
        UserError: Nothing is attached.
    """
    adaptation = find_adaptation(model)
    host = adaptation.host
    report = Report(host.registered_name(), [m.config() for m in adaptation.methods.values()])
    inside = {id(p) for p in host.backbone.parameters()}
    for name in host.heads():
        inside -= {id(p) for p in host.backbone.get_submodule(name).parameters()}
    for param in model.parameters():
        if not param.requires_grad:
            report.frozen += param.numel()
        elif id(param) in inside:
            report.trainable_without_head += param.numel()
        else:
            report.head += param.numel()
    report.total = report.trainable_without_head + report.head
    _sites(adaptation, report)
    roles: dict[str, list[int]] = {}
    for p in adaptation.trained_parameters():
        roles.setdefault(p.role, []).append(p.param.numel())
    report.existing = [(role, len(sizes), sum(sizes)) for role, sizes in sorted(roles.items())]
    report.rel_pos_tables = sum(roles.get("rel_pos_bias", []))
    return report


def _sites(adaptation: Adaptation, report: Report) -> None:
    rows: dict[tuple[str, str, str], list[int]] = {}
    host = adaptation.host
    placed: set[int] = set()
    for sites in (host.sites, *(block.sites for block in host.blocks)):
        for site in sites.values():
            for entry in site.entries:
                placed.add(id(entry.module))
                size = sum(p.numel() for p in entry.module.parameters())
                if size:
                    rows.setdefault((site.name, entry.placement, entry.key), []).append(size)
    for key, module in adaptation.peft_items():
        size = sum(p.numel() for p in module.parameters())
        if size and id(module) not in placed:
            rows.setdefault(("shared", "", key), []).append(size)
    report.sites = [(*key, len(sizes), sum(sizes)) for key, sizes in rows.items()]


def ppt(metric: float, parameters: int) -> float:
    """Performance-parameter trade-off ``M exp(-log10(P / C + 1))`` with C = 1e7 (survey arXiv 2402.02242).

    Args:
        metric: M in [0, 1].
        parameters: P, trained parameters without the head.
    """
    import math

    return metric * math.exp(-math.log10(parameters / PPT_CONSTANT + 1))


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
        console.print(
            f"trainable without head {report.trainable_without_head:,}{tables}, head {report.head:,}, "
            f"total {report.total:,}; frozen {report.frozen:,}"
        )
    return capture.get().rstrip()
