"""What a pretraining of a nano host is told; the help of its word reads the defaults here, without torch."""

from __future__ import annotations

import dataclasses
import math

from vpeft.errors import UserError
from vpeft.registry import nearest


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """What a pretraining run depends on; the log and the metadata of the weights record it.

    Attributes:
        host: ``nano_vit`` or ``nano_swin``.
        epochs: How often every image is seen.
        images: Drawn images to train on.
        held_out: Images that measure the accuracy.
        batch_size: Images of one step.
        lr: Highest learning rate of AdamW, reached after ``warmup``; a cosine takes it to zero.
        weight_decay: Of matrices; biases, norms, tokens and embeddings have none.
        warmup: Part of all steps in which the rate rises linearly from zero.
        label_smoothing: Part of the target spread over all classes.
        seed: Of the initial weights and of the images.
        threads: CPU threads of torch. Sums depend on it in the last digits.
    """

    host: str
    epochs: int = 12
    images: int = 40_000
    held_out: int = 2_000
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    label_smoothing: float = 0.05
    seed: int = 0
    threads: int = 1

    def __post_init__(self) -> None:
        from vpeft.core.backbones.nano import NANO_BACKBONES

        if self.host not in NANO_BACKBONES:
            raise UserError(f"No nano host {self.host!r}; {nearest(self.host, NANO_BACKBONES)}")
        for name in ("epochs", "images", "held_out", "batch_size", "threads"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1.")
        if self.images < self.batch_size:
            raise UserError(f"--images {self.images}: must be at least one batch of {self.batch_size}.")

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run; images that fill no last batch wait for another epoch."""
        return self.epochs * (self.images // self.batch_size)

    def rate(self, step: int) -> float:
        """The learning rate of a step as a part of ``lr``."""
        rising = max(1, round(self.warmup * self.steps))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))
