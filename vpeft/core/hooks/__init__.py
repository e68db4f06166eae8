"""Hooks for mmengine's Runner."""

from vpeft.core.hooks.class_count import ClassCountHook
from vpeft.core.hooks.epoch_seed import EpochSeedHook
from vpeft.core.hooks.logits import LogitsHook
from vpeft.core.hooks.loss_guard import LossGuardHook
from vpeft.core.hooks.peft_hook import PEFTHook
from vpeft.core.hooks.progress import ProgressHook
from vpeft.core.hooks.segmentation_check import SegmentationCheckHook

__all__ = [
    "ClassCountHook",
    "EpochSeedHook",
    "LogitsHook",
    "LossGuardHook",
    "PEFTHook",
    "ProgressHook",
    "SegmentationCheckHook",
]
