"""Names of the modules that methods register."""

from __future__ import annotations

from torch import nn

from vpeft.core.backbones.block import Block
from vpeft.errors import MethodFault


def check_module_name(name: str, taken: nn.ModuleDict, key: str, block: Block | None) -> None:
    """Refuse a name under which a module would be lost or could not be registered.

    Args:
        name: Of the module.
        taken: What the method has registered at the same place.
        key: The method's.
        block: The place; None is the backbone itself.

    Raises:
        MethodFault: The name is taken, or torch takes none such.
    """
    where = f"block {block.index}" if block else "the backbone"
    if name in taken:
        raise MethodFault(
            f"{key}: the name {name!r} is taken at {where}: a fault of the method; give each of its modules there "
            "a name of its own."
        )
    if not name or "." in name or hasattr(taken, name):
        raise MethodFault(
            f"{key}: {name!r} is no name that torch's ModuleDict takes, at {where}: a fault of the method; take "
            f"another, such as {name.replace('.', '_') + '_1'!r}."
        )
