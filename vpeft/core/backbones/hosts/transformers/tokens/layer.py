"""What the layers of transformers have in common: attention by an interface, checkpointing by a base class."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteAttention, SiteBlock
from vpeft.errors import UserError

#: Names under which layers hold their activation.
_ACTS = ("intermediate_act_fn", "activation", "activation_fn", "act_fn")


class LayerAttention(SiteAttention):
    """Mixin of a module that computes attention by the interface that its config names (eager, sdpa, flash)."""

    @property
    def interface(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        """The function of ``config._attn_implementation``; eager attention is that of the class's own module."""
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        name = self.config._attn_implementation
        if name == "eager":
            return sys.modules[self.plain_class.__module__].eager_attention_forward
        return ALL_ATTENTION_FUNCTIONS[name]


class Layer(SiteBlock):
    """A layer that checkpoints itself (``gradient_checkpointing_enable``), where gradients are computed.

    The plain one does so in train mode alone, which the layers of a frozen base are not in; and re-entrant
    checkpointing, which is its default, computes no gradient at all where the layer's input asks for none, as behind
    a frozen embedding.
    """

    free_keys = True

    def site_gated(self, mlp: nn.Module, x: Tensor) -> Tensor:
        """A gated MLP of ``gate_proj``, ``up_proj`` and ``down_proj``."""
        gate, up = self.site_linears("fc1", x)
        act = self.peft_sites["act"]
        if act.placed(*act.allowed):
            product = act.run(lambda both: _product(mlp, *both.chunk(2, dim=-1)), torch.cat((gate, up), dim=-1))
        else:
            product = _product(mlp, gate, up)
        return mlp.down_proj(product)

    def __call__(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(nn.Module.__call__, self, **kwargs)
        if not (self.gradient_checkpointing and torch.is_grad_enabled()):
            return call(hidden_states, *args)
        if not hidden_states.requires_grad:
            hidden_states = hidden_states.detach().requires_grad_()
        return self._gradient_checkpointing_func(call, hidden_states, *args)


def _product(mlp: nn.Module, gate: Tensor, up: Tensor) -> Tensor:
    return mlp.act_fn(gate) * up


def refuse(**given: Any) -> None:
    """Refuse what is given and not re-stated.

    Raises:
        UserError: One of the values is not None.
    """
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name} is not re-stated by this host: leave it out.")


def refuse_function(block: nn.Module) -> str | None:
    """Why a block whose activation is a function is refused: what is placed there could not be run."""
    modules = (module for _, module in block.named_modules())
    names = {name for module in modules for name, value in vars(module).items() if name in _ACTS and callable(value)}
    return f"the activation {names.pop()} is a function: name it in the config (hidden_act='gelu')." if names else None


def classes(family: dict[str, str], *ends: str) -> tuple[str, ...]:
    """Full names of classes that are copies of one another.

    Args:
        family: How the names of a module's classes begin, by the module.
        ends: How the names end.
    """
    return tuple(
        f"transformers.models.{module}.modeling_{module}.{start}{end}"
        for module, start in family.items()
        for end in ends
    )
