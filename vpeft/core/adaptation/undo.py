"""A deed on a model that fails leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def undone_on_error(model: nn.Module) -> Iterator[None]:
    """Where the block raises anything, give ``model`` its structure back: everything but the values of its tensors.

    Classes and attributes of every module, its parameters, buffers, children and hooks, training modes, and which
    parameters ask for a gradient. The objects themselves come back, so that handles of hooks go on working.
    """
    modules = [(module, type(module), _shallow(module)) for module in model.modules()]
    flags = [(param, param.requires_grad) for param in model.parameters()]
    try:
        yield
    except BaseException:
        for module, kind, attributes in modules:
            module.__class__ = kind
            module.__dict__.clear()
            for name, (value, content) in attributes.items():
                if content is not None:
                    _refill(value, content)
                module.__dict__[name] = value
        for param, flag in flags:
            param.requires_grad_(flag)
        raise


def _shallow(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Every attribute, and of containers what they hold."""
    return {
        name: (value, value.copy() if isinstance(value, (dict, list, set)) else None)
        for name, value in vars(module).items()
    }


def _refill(container: Any, content: Any) -> None:
    container.clear()
    container.extend(content) if isinstance(container, list) else container.update(content)
