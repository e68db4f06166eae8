"""A model while it is only looked at."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from vpeft.core.backbones.roles import keepers


@contextmanager
def random_numbers_as_before() -> Iterator[None]:
    """Within the context random numbers may be drawn that are then drawn again."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextmanager
def at_rest(model: nn.Module, training: bool = False, seed: int | None = None) -> Iterator[None]:
    """Every parameter asks for a gradient, chance is from a state of its own, and all is as before afterwards.

    Args:
        model: The model.
        training: In train mode, but for what keeps statistics of its inputs; else in eval mode.
        seed: Of the chance within; None leaves its state.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(param, param.requires_grad) for param in model.parameters() if param.is_floating_point()]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers()]
    try:
        _switch([(module, training) for module, _ in modes])
        for _, module in keepers(model):
            module.training = False
        for param, _ in flags:
            param.requires_grad_(True)
        with random_numbers_as_before():
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        _switch(modes)
        for param, flag in flags:
            param.requires_grad_(flag)
        with torch.no_grad():
            for buffer, version, before in buffers:
                if buffer._version != version:
                    buffer.copy_(before)


def _switch(modes: list[tuple[nn.Module, bool]]) -> None:
    """Put every module into a mode of its own; what keeps a cache for one of them makes or drops it."""
    for module, mode in modes:
        if type(module).train is not nn.Module.train:
            module.train(mode)
    for module, mode in modes:
        module.training = mode
