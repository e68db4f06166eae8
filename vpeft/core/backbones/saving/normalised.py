"""Norms and activations of a block: what they keep where it is kept anyway.

Norms keep their output for the backward pass, in the place of their input.

``y = w * x_hat + b`` with ``x_hat = (x - mean) * rstd`` (Ba et al., Layer Normalization, 1607.06450; without mean and
b: Zhang and Sennrich, Root Mean Square Layer Normalization, NeurIPS 2019). The gradient of x needs only ``x_hat`` and
``rstd``::

    dx = rstd * (g - mean(g) - x_hat * mean(g * x_hat)),  g = w * dy      (without mean(g) for the latter)

and ``x_hat = (y - b) / w`` follows from the output, which what is trained behind the norm keeps as its own input. Kept
so, the two are one tensor (the idea is that of MS-LN in Yang et al., Reducing Fine-Tuning Memory Overhead by
Approximate and Memory-Sharing Backpropagation, ICML 2024, which takes w and b into the next linear; here they stay).
The output is bit-equal to that of the plain norm, the gradient equal to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vpeft.core.backbones.saving.source import mark_made
from vpeft.core.backbones.sites.passes import Passes, in_program
from vpeft.core.backbones.sites.site import Site

#: Full names of the norms whose output is ``F.layer_norm``, and of those without mean and shift.
LAYER_NORMS = (
    "torch.nn.modules.normalization.LayerNorm",
    "timm.layers.norm.LayerNorm",
    "open_clip.transformer.LayerNorm",
)
RMS_NORMS = ("torch.nn.modules.normalization.RMSNorm", "timm.layers.norm.RmsNorm")
#: Those of activations that keep their input, whatever they are given.
ACTIVATIONS = (
    "torch.nn.modules.activation.GELU",
    "torch.nn.modules.activation.SiLU",
    "timm.layers.activations.GELU",
    "timm.layers.activations.GELUTanh",
    "timm.layers.activations.QuickGELU",
    "open_clip.transformer.QuickGELU",
    "transformers.activations.GELUActivation",
    "transformers.activations.GELUTanh",
    "transformers.activations.QuickGELUActivation",
)
#: Channels with ``|b| > LIMIT * |w|`` would lose digits on the way back: of these ``x_hat`` itself is kept.
LIMIT = 16
#: Where more than this share of the channels does, the norm keeps its input.
SHARE = 1 / 8
#: What is placed so reads the output of the norm.
_READING = ("before", "parallel", "beside")


class KeptNorm:
    """Mixin of a norm in a block.

    Attributes:
        peft_readers: The sites of the block that read the very tensor that the norm gives.
    """

    peft_passes: Passes
    peft_index: int
    peft_sites: dict[str, Site]
    peft_readers: tuple[Site, ...]
    peft_dead: tuple[Any, Tensor | None]

    def forward(self, x: Tensor) -> Tensor:
        if not self.site_is_read(x):
            return super().forward(x)
        dead = self.site_dead() if self.site_is_plain(x) else None
        if dead is None or len(dead) > SHARE * self.weight.numel():  # it keeps its input, of which the output is made
            return mark_made(super().forward(x), super().forward, x)
        if isinstance(self, nn.LayerNorm):
            return OutputNorm.apply(x, self.weight, self.bias, self.eps, dead, None)[0]
        return OutputNorm.apply(x, self.weight, None, self.eps, dead, super().forward)[0]

    def site_is_read(self, x: Tensor) -> bool:
        """Whether the output of ``x`` is kept anyway, by what is trained behind the norm or is run again from there."""
        if not torch.is_grad_enabled() or in_program() or type(x) is not Tensor:
            return False
        if not (x.requires_grad or (self.weight is not None and self.weight.requires_grad)):
            return False
        if torch._C._functorch.is_functorch_wrapped_tensor(x):
            return False
        if any(site.module is self and site.placed(*site.allowed) for site in self.peft_sites.values()):
            return False
        if any(site.widths is not None for site in self.peft_readers) and self.peft_passes.enabled:
            return True
        placed = (entry.module for site in self.peft_readers for entry in site.placed(*_READING))
        # A sum of several adapters is no module, and is not trained.
        trained = ((*one.parameters(), *getattr(one, "borrowed", ())) for one in placed if isinstance(one, nn.Module))
        return any(param.requires_grad for params in trained for param in params)

    def site_is_plain(self, x: Tensor) -> bool:
        """Whether ``x_hat`` follows from the output: a frozen scale, all of it in one precision of many digits."""
        affine = [param for param in (self.weight, getattr(self, "bias", None)) if param is not None]
        return (
            self.weight is not None
            and x.requires_grad
            and not any(param.requires_grad for param in affine)
            and not getattr(self, "_fast_norm", False)
            and x.dtype in (torch.float32, torch.float64)
            and all(param.dtype is x.dtype for param in affine)
            and not x.is_meta  # of which autocast knows nothing
            and not torch.is_autocast_enabled(x.device.type)
        )

    def site_dead(self) -> Tensor:
        """Indices of the channels whose ``x_hat`` does not follow from the output; looked for where weights changed."""
        weight, bias = self.weight, getattr(self, "bias", None)
        key = tuple((t.data_ptr(), t._version) for t in (weight, bias) if t is not None)
        known = vars(self).get("peft_dead")
        if known is None or known[0] != key or known[1].device != weight.device:
            size, shift = weight.detach().abs(), torch.zeros_like(weight) if bias is None else bias.detach().abs()
            known = vars(self)["peft_dead"] = key, ((size == 0) | (shift > LIMIT * size)).nonzero().flatten()
        return known[1]


class MadeActivation:
    """Mixin of an activation in a block, which keeps its input: what is trained behind it makes the output again."""

    peft_sites: dict[str, Site]

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        wanted = x.requires_grad and torch.is_grad_enabled() and not in_program()
        return mark_made(y, super().forward, x) if wanted and self.peft_sites["fc2"].placed(*_READING) else y


def saving_mixin(kind: str) -> type | None:
    """The mixin of a norm or an activation by the full name of its class; None of one that is left as it is."""
    if kind in (*LAYER_NORMS, *RMS_NORMS):
        return KeptNorm
    return MadeActivation if kind in ACTIVATIONS else None


class OutputNorm(torch.autograd.Function):
    """A norm, its ``rstd`` and ``x_hat`` of the dead channels; all are outputs, so that gradients have gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        eps: float | None,
        dead: Tensor,
        plain: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The norm of x ``(..., C)``.

        Args:
            ctx: Of autograd.
            x: The input.
            weight: ``(C,)``, frozen.
            bias: ``(C,)``, frozen, or None.
            eps: Of the norm.
            dead: Channels of which ``x_hat`` is kept beside the output.
            plain: The norm itself, where it has neither mean nor shift; None is ``F.layer_norm``.
        """
        if plain is None:
            y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight, bias, eps)
            kept = (x[..., dead] - mean) * rstd
        else:
            y, eps = plain(x), torch.finfo(x.dtype).eps if eps is None else eps
            rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
            kept = x[..., dead] * rstd
        ctx.centres = plain is None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, rstd, kept, weight, bias, dead)
        return y, rstd, kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_rstd: Tensor | None, grad_kept: Tensor | None) -> tuple:
        if grad is None and grad_rstd is None and grad_kept is None:
            return (None,) * 6
        y, rstd, kept, weight, bias, dead = ctx.saved_tensors
        x_hat = _normalised(y, kept, weight, bias, dead)
        alone = grad_rstd is None and grad_kept is None and not torch.is_grad_enabled()
        if alone and ctx.centres:  # the common case, by torch's own kernel
            zero, one, only = torch.zeros_like(rstd), torch.ones_like(rstd), [True, False, False]
            dx = torch.ops.aten.native_layer_norm_backward(grad, x_hat, weight.shape, zero, one, weight, bias, only)[0]
            return dx.mul_(rstd), None, None, None, None, None
        g = torch.zeros_like(y) if grad is None else grad * weight
        g = g if grad_kept is None else g.index_add(-1, dead, grad_kept)
        dx = g - x_hat * (g * x_hat).mean(-1, keepdim=True)
        dx = rstd * (dx - g.mean(-1, keepdim=True) if ctx.centres else dx)
        if grad_rstd is not None:
            dx = dx - grad_rstd * rstd.square() * x_hat / x_hat.shape[-1]
        return dx, None, None, None, None, None


def _normalised(y: Tensor, kept: Tensor, weight: Tensor, bias: Tensor | None, dead: Tensor) -> Tensor:
    inverse = weight.reciprocal()
    shift = torch.zeros_like(weight) if bias is None else -bias * inverse
    if not len(dead):
        return torch.addcmul(shift, y, inverse)
    inverse, shift = inverse.index_fill(0, dead, 0), shift.index_fill(0, dead, 0)
    return torch.addcmul(shift, y, inverse).index_copy(-1, dead, kept)
