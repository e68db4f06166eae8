"""V-PEFT Bench: parameter-efficient fine-tuning of vision backbones, every method on every task."""

from vpeft.apis.commands.app import is_answered_at_once
from vpeft.errors import UserError, importing

if not is_answered_at_once():
    with importing():
        from vpeft import compat  # isort: skip  # noqa: F401  must come before any package that it mends

        from vpeft import algorithms, core, extension  # noqa: F401  (register)
        from vpeft.core.backbones.load import load_backbone  # isort: skip
        from vpeft.core.backbones.weights import load_pretrained  # isort: skip
        from vpeft.apis.adapters import (
            adapter_names,
            attach,
            detach,
            disabled,
            drop_adapter,
            learn,
            load_adapter,
            merge,
            plain_state_dict,
            save_adapter,
            unmerge,
            use,
        )
        from vpeft.apis.config import recipes  # noqa: F401  (composed configs are bases of others)
        from vpeft.apis.predict.load import load
        from vpeft.apis.zoo.zoo import from_zoo

__version__ = "0.1.0"

__all__ = [
    "UserError",
    "adapter_names",
    "attach",
    "detach",
    "disabled",
    "drop_adapter",
    "from_zoo",
    "learn",
    "load",
    "load_adapter",
    "load_backbone",
    "load_pretrained",
    "merge",
    "plain_state_dict",
    "save_adapter",
    "unmerge",
    "use",
]
