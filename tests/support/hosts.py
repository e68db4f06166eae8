"""Tiny backbones as the tests read them; they and their tools are those of ``vpeft.testing``."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vpeft.apis.testing import models
from vpeft.apis.testing.hosts import TINY, Tiny, tiny_of
from vpeft.apis.testing.models import (
    ON_CLIPS,
    _tensors,
    again,
    clone,
    head_prefixes,
    inputs,
    key_biases,
    loss,
    perturb,
    seeded,
    tokens,
    trained,
)

__all__ = [
    "ON_CLIPS",
    "TINY",
    "Tiny",
    "_tensors",
    "again",
    "build",
    "clone",
    "head_prefixes",
    "inputs",
    "key_biases",
    "loss",
    "perturb",
    "seeded",
    "tiny_of",
    "tokens",
    "trained",
]


def build(host: str, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
    """As that of ``vpeft.testing``; without options a copy, which is there ten times sooner."""
    if options:
        return models.build(host, dtype, **options)
    made, random_behind = _made(host, dtype)
    model = made()
    torch.set_rng_state(random_behind)
    return model


@functools.cache
def _made(host: str, dtype: torch.dtype) -> tuple[Callable[[], nn.Module], Tensor]:
    """What makes copies of a host, and torch's random state behind its building."""
    return models._copies.__wrapped__(host, dtype), torch.get_rng_state()
