"""Backbones that checkpoint their layers or stages themselves, as those of transformers do on demand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vpeft.core.backbones.block_forward import SiteBackbone
from vpeft.errors import UserError


class Checkpointed(SiteBackbone):
    """Asks for a gradient at the image where checkpointing is re-entrant, which is its default in transformers.

    The re-entrant form computes no gradient at all behind what asks for none, as behind a frozen embedding.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = {key: self.site_images(value) for key, value in kwargs.items()}
        return super().forward(*map(self.site_images, args), **given)

    def site_images(self, images: Any) -> Any:
        """Images with which a pass may begin, also one that runs the backbone part by part; or another argument."""
        if isinstance(images, Tensor) and images.is_floating_point() and not images.requires_grad and self.reentrant():
            return images.detach().requires_grad_()
        return images

    def reentrant(self) -> bool:
        """Whether something in it is checkpointed re-entrantly in a pass that begins now."""
        own = (m for m in self.modules() if getattr(m, "gradient_checkpointing", False) and m.training)
        return torch.is_grad_enabled() and any(
            getattr(getattr(m, "_gradient_checkpointing_func", None), "keywords", {}).get("use_reentrant", True)
            for m in own
        )


class CheckpointedStages(Checkpointed):
    """Stages whose outputs are nested, of which the re-entrant form loses the gradients."""

    def site_images(self, images: Any) -> Any:
        if isinstance(images, Tensor) and self.reentrant():
            raise UserError(
                f"re-entrant checkpointing of the stages of {self.plain_class.__name__} loses gradients: "
                "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})."
            )
        return images
