"""What tools/ and users call."""

from vpeft.apis.adapters import (
    attach,
    detach,
    disabled,
    learn,
    load_adapter,
    merge,
    plain_state_dict,
    save_adapter,
    unmerge,
)

__all__ = [
    "attach",
    "detach",
    "disabled",
    "learn",
    "load_adapter",
    "merge",
    "plain_state_dict",
    "save_adapter",
    "unmerge",
]
