"""What exists: methods, hosts, configs, shipped adapters; and what a config would train."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any

from vpeft.apis.registered import registered
from vpeft.errors import UserError

if TYPE_CHECKING:
    from mmengine import Config

    from vpeft.core.adaptation.report import Report


def methods() -> list[dict[str, Any]]:
    """Every registered method: name, category, hyper-parameters, memory class, whether it merges, paper."""
    from vpeft.registry import PEFT_METHODS

    return [
        {
            "name": name,
            "category": cls.category,
            "memory": cls.memory,
            "mergeable": cls.mergeable,
            "merges_with": cls.merges_with,
            "start": cls.stated_start(),
            "hyper_parameters": cls.hyper_parameters(),
            "paper": cls.paper,
            "unverified": cls.unverified,
        }
        for name, cls in sorted(PEFT_METHODS.module_dict.items())
    ]


def hosts() -> list[dict[str, Any]]:
    """Every registered host: name, the class that it reads, what it is."""
    from vpeft.registry import HOSTS

    return [
        {"name": name, "backbone": cls.targets[0], "about": inspect.getdoc(cls).splitlines()[0]}
        for name, cls in sorted(HOSTS.module_dict.items())
    ]


def configs(root: str | None = None) -> list[dict[str, Any]]:
    """Every leaf config, composed ones included."""
    from vpeft.apis.config.listing import config_names
    from vpeft.apis.config.names import shown_name

    return [{"name": shown_name(path)} for path in config_names(root)]


def zoo() -> list[dict[str, Any]]:
    """Every adapter of the zoo: what it is of, its accuracy in percent, and its size."""
    from vpeft.apis.zoo.zoo import zoo_index

    return [
        {
            "name": name,
            "task": said["task"],
            "accuracy": f"{100 * said['accuracy']:.1f} %",
            "images": said["images"],
            "trained": said["trained"],
            "bytes": said["bytes"],
            **{key: said[key] for key in ("config", "methods", "head", "seed", "commit", "sha256")},
        }
        for name, said in zoo_index().items()
    ]


def catalogue_rows(what: str) -> list[dict[str, Any]]:
    """As :func:`catalogue`, or less of every row, where that can be said without importing torch."""
    if what != "methods" or "torch" in sys.modules:
        return catalogue(what)
    keys = ("category", "memory", "mergeable", "paper")
    found = sorted(registered("PEFT_METHODS").items())
    return [{"name": name, **{key: one.states[key] for key in keys}} for name, one in found]


def catalogue(what: str) -> list[dict[str, Any]]:
    """One of the lists above by name.

    Raises:
        UserError: There is no such list.
    """
    lists = {"methods": methods, "hosts": hosts, "configs": configs, "zoo": zoo}
    if what not in lists:
        from vpeft.registry import nearest

        raise UserError(f"there is no list of {what!r}: {nearest(what, lists)}")
    return lists[what]()


def config_parameters(cfg: Config) -> Report:
    """The parameters of a config's model, without data or weights: it is built on the meta device."""
    from vpeft.apis.config.load import build_model
    from vpeft.core.adaptation.report import parameter_report
    from vpeft.core.models.build import meta_build

    with meta_build():
        return parameter_report(build_model(cfg))
