"""What stands around a model, or around a part of it, and is looked through.

``torch.compile``, distributed wrappers, averages of weights (EMA) and test-time augmentation hold what they stand
around under a name of their own, which then appears in every key of the state dict. Whatever is stored, loaded or
compared goes by the names of the plain model: those of this file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from mmengine.registry import MODEL_WRAPPERS, Registry
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from vpeft.errors import UserError

_WRAPPERS = (nn.DataParallel, DistributedDataParallel, AveragedModel)
#: Names under which torch.compile and the wrapper of activation checkpointing hold a module; no plain model uses them.
_RESERVED = ("_orig_mod", "_checkpoint_wrapped_module")


def held_name(module: nn.Module) -> str | None:
    """The name under which a wrapper holds the module that it stands around; None where ``module`` is no wrapper."""
    for name in _RESERVED:
        if name in module._modules:
            return name
    if "module" in module._modules and isinstance(module, (*_WRAPPERS, *_of_mmengine(), *_registered(MODEL_WRAPPERS))):
        return "module"
    return None


def _of_mmengine() -> tuple[type, ...]:
    """mmengine's averages and test-time augmentation, where anything has imported them."""
    models = sys.modules.get("mmengine.model")
    return () if models is None else (models.BaseAveragedModel, models.BaseTTAModel)


def _registered(registry: Registry) -> Iterator[type]:
    """What mmengine's ``is_model_wrapper`` knows: the wrappers of a registry, and of those of other packages."""
    yield from registry.module_dict.values()
    for child in registry.children.values():
        yield from _registered(child)


def unwrap(model: nn.Module) -> nn.Module:
    """The plain model under all wrappers, in whatever order they stand around it."""
    while (name := held_name(model)) is not None:
        model = model._modules[name]
    return model


def kind_of(module: nn.Module) -> type:
    """The class of a module; ``fully_shard``, which shares weights out, puts one of its own above."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return type(module).__mro__[2] if fsdp is not None and isinstance(module, fsdp.FSDPModule) else type(module)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, by its first name in the plain model; wrappers are left out.

    Raises:
        UserError: ``model`` is no module.
    """
    if not isinstance(model, nn.Module):
        # As of mmpretrain's ConvNeXt, whose train() returns nothing.
        none = "None: of some classes .train(), .eval() and .requires_grad_() return nothing: call them before"
        of = none if model is None else f"of the class {type(model).__name__}: give the torch.nn.Module itself"
        raise UserError(f"a model is expected, and this is {of}.")
    seen: set[int] = set()
    waiting = [("", model)]
    while waiting:  # no recursion: generators inside generators would cost more than what they walk through
        name, module = waiting.pop()
        module = unwrap(module) if module._modules else module
        if id(module) not in seen:
            seen.add(id(module))
            yield name, module
            if module._modules:
                prefix = f"{name}." if name else ""
                inside = [(prefix + child, inner) for child, inner in module._modules.items() if inner is not None]
                waiting += reversed(inside)
