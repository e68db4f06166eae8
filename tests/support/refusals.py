"""What hosts and methods rightly refuse: a test that goes through all of them skips, with the reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

import vpeft

Given = TypeVar("Given")
#: Keys that matter or a linear without a bias take no shift, a norm behind a branch takes no matrix.
NOT_MERGED = ("no bias to merge", "only a scale and shift after a norm")


def unless_refused(act: Callable[[], Given], *reasons: str) -> Given:
    """What an act gives; skips the test where it is refused with one of the reasons in the message."""
    refusal = None
    try:
        return act()
    except vpeft.UserError as error:
        refusal = str(error)
    assert any(reason in refusal for reason in reasons), refusal
    return pytest.skip(refusal)


def attached(host: str, plain: nn.Module, cfg: object) -> nn.Module:
    """A copy of a tiny host, or of a variant of one, with methods attached; a refusal names the host."""
    return unless_refused(lambda: vpeft.attach(copy.deepcopy(plain), cfg), host.split("/")[0])


def merged(model: nn.Module) -> list[str]:
    """What :func:`vpeft.merge` gives; a refusal leaves the model as it was."""
    state = {key: value.clone() for key, value in model.state_dict().items()}

    def merge() -> list[str]:
        try:
            return vpeft.merge(model)
        except vpeft.UserError:
            assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
            raise

    return unless_refused(merge, *NOT_MERGED)


def load_merged(plain: nn.Module, model: nn.Module) -> nn.Module:
    """The plain backbone with the merged weights."""
    state = vpeft.plain_state_dict(model)
    assert state.keys() == plain.state_dict().keys()
    plain.load_state_dict(state, strict=False)  # mmpretrain's Swin V2 throws buffers of its own file away
    return plain
