"""An adapter as that of plainer methods, which answer the same at inference (``Method.folded``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.find import find_adaptations
from vpeft.core.adaptation.options.packed import UNPACKED
from vpeft.core.backbones.host import PEFT_KEY
from vpeft.core.backbones.wrappers import named_modules
from vpeft.core.contract.build import keyed
from vpeft.core.contract.method import Method
from vpeft.errors import UserError


def folded_methods(adaptation: Adaptation) -> list[Method]:
    """The methods of an adaptation, each as the plainer one where it has one."""
    pairs = [(method, method.folded()) for method in adaptation.methods.values()]
    # What is folded are other values, of no few bits.
    return [
        method if plainer is None else replace(plainer, **{**method.options(), **UNPACKED}) for method, plainer in pairs
    ]


def folded_tensors(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an adapter file, with those of plainer methods in the place of what these replace.

    Raises:
        UserError: No method of the model has a plainer one.
    """
    found, modules = dict(tensors), dict(named_modules(model))
    if not any(method.folded() for one in find_adaptations(model).values() for method in one.methods.values()):
        names = ", ".join(m.registered_name() for one in find_adaptations(model).values() for m in one.methods.values())
        raise UserError(f"{names} folds into no plainer method: save it as it is.")
    for prefix, adaptation in find_adaptations(model).items():
        names = dict(zip(adaptation.methods, keyed(folded_methods(adaptation)), strict=True))
        places = {path: path.rsplit(".", 3)[-3:] for path in modules if path.startswith(prefix)}
        old: dict[str, Tensor] = {}
        new: dict[str, Tensor] = {}
        for path, place in places.items():
            if len(place) < 3 or place[0] != PEFT_KEY or place[1] not in names:
                continue
            module, owner = modules[path], path.rsplit(".", 2)[0]
            own = module.state_dict()
            with torch.no_grad():
                values = module.folded() if hasattr(module, "folded") else own
            old |= {f"{path}.{key}": value for key, value in own.items()}
            new |= {f"{owner}.{names[place[1]]}.{place[2]}.{key}": value for key, value in values.items()}
        found = {key: value for key, value in found.items() if key not in old} | new
    return found
