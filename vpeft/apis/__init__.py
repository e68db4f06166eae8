"""What the command and users call; the public functions are imported when they are asked for."""

from importlib import import_module
from typing import Any

__all__ = [
    "adapter_names",
    "attach",
    "detach",
    "disabled",
    "drop_adapter",
    "follow_steps",
    "learn",
    "load_adapter",
    "merge",
    "parameter_groups",
    "plain_state_dict",
    "save_adapter",
    "training_loss",
    "unmerge",
    "use",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("vpeft"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
