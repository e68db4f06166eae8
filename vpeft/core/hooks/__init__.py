"""Hooks for mmengine's Runner."""

from vpeft.core.hooks.epoch_seed import EpochSeedHook
from vpeft.core.hooks.feature_cache import FeatureCacheHook
from vpeft.core.hooks.logits import LogitsHook
from vpeft.core.hooks.loss_guard import LossGuardHook
from vpeft.core.hooks.peft_hook import PEFTHook
from vpeft.core.hooks.progress import ProgressHook
from vpeft.core.hooks.supernet import SupernetHook

__all__ = [
    "EpochSeedHook",
    "FeatureCacheHook",
    "LogitsHook",
    "LossGuardHook",
    "PEFTHook",
    "ProgressHook",
    "SupernetHook",
]
