"""Tiny backbones as the tests read them; they and their tools are those of ``vpeft.testing``."""

from vpeft.apis.testing.hosts import TINY, Tiny, tiny_of
from vpeft.apis.testing.models import (
    ON_CLIPS,
    _tensors,
    again,
    build,
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
