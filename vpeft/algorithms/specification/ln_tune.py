"""LN-Tune."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import bias_size
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class LNTune(Method):
    """Weight and bias of every norm (in the blocks, output, patch embedding, patch merging) are trained."""

    category = "specification"
    paper = "Strong Baselines for Parameter Efficient Few-Shot Fine-tuning, AAAI 2024"
    mergeable = True
    needs_blocks = False
    unverified = "The authors' repository was not found; the set of norms is the one used in vision benchmarks."

    def trains(self, param: HostParam) -> bool:
        return param.role in ("norm_weight", "norm_bias")

    def count(self, host: Host) -> int:
        # Two norms a block, weight and bias; a merging of Swin's normalises four tokens side by side.
        sites = [site for block in host.blocks for site in block.sites.values()] + list(host.sites.values())
        norms = [site.module for site in sites if getattr(site.module, "weight", None) is not None]
        return host.loose("norm_weight", "norm_bias") + sum(
            m.weight.numel() + bias_size(m) for m in norms if m.weight.dim() == 1
        )
