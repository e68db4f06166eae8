"""An engine from its name."""

from __future__ import annotations

import inspect

from vpeft.apis.jobs.engines.engine import Engine
from vpeft.apis.jobs.engines.local import LocalEngine
from vpeft.apis.jobs.engines.ray import RayEngine
from vpeft.apis.jobs.engines.slurm import SlurmEngine
from vpeft.errors import UserError
from vpeft.registry import nearest

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "ray": RayEngine, "slurm": SlurmEngine}


def build_engine(name: str = "local", **options) -> Engine:
    """An engine by name.

    Args:
        name: One of :data:`ENGINES`.
        **options: Its own; those that are None are left out.

    Raises:
        UserError: Unknown engine or option, or its package is not installed; the message names the nearest.
    """
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}: {nearest(name, ENGINES)}")
    options = {k: v for k, v in options.items() if v is not None}
    parameters = inspect.signature(ENGINES[name].__init__).parameters
    known = [p for p in parameters if p != "self"]
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in known:
                raise UserError(f"engine {name!r} has no option {option!r}: {nearest(option, known)}")
    return ENGINES[name](**options)
