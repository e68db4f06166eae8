"""Mends of mmpretrain."""

from __future__ import annotations

import functools
import types

from vpeft.compat.waiting import after_import


def mmpretrain_non_reentrant_checkpointing() -> None:
    """mmpretrain 1.3.6: ``SwinBlock(with_cp=True)`` checkpoints re-entrantly, as mmengine does.

    The module's own view of ``torch.utils.checkpoint`` is replaced, not torch's.
    """
    after_import("mmpretrain.models.backbones.swin_transformer", _mend)


def _mend(module: types.ModuleType) -> None:
    import torch

    if isinstance(module.cp, types.ModuleType):
        checkpoint = functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        module.cp = types.SimpleNamespace(checkpoint=checkpoint)
