"""Mends of mmpretrain."""

from __future__ import annotations

import functools
import types

import torch


def mmpretrain_non_reentrant_checkpointing() -> None:
    """mmpretrain 1.3.6: ``SwinBlock(with_cp=True)`` checkpoints re-entrantly, as above.

    The module's own view of ``torch.utils.checkpoint`` is replaced, not torch's.
    """
    from mmpretrain.models.backbones import swin_transformer

    if isinstance(swin_transformer.cp, types.ModuleType):
        view = types.SimpleNamespace(
            checkpoint=functools.partial(torch.utils.checkpoint.checkpoint, use_reentrant=False)
        )
        swin_transformer.cp = view
