"""LN-Tune."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LNTune(Method):
    """Weight and bias of every norm (in the blocks, output, patch embedding, patch merging) are trained."""

    category = "specification"
    paper = "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning, AAAI 2024"
    mergeable = True
    unverified = "The authors' repository was not found; the set of norms is the one used in vision benchmarks."

    def trains(self, param: HostParam) -> bool:
        return param.role in ("norm_weight", "norm_bias")

    def count(self, host: Host) -> int:
        # Two norms a block; a merging normalises four tokens side by side.
        around = sum(2 * m.weight.numel() for m in host.modules.values() if m.weight.dim() == 1)
        return sum(2 * 2 * b.dim for b in host.blocks) + around
