"""BitFit."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.stated_linear import bias_size
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class BitFit(Method):
    """Every bias vector that exists (linears, convolutions, norm shifts) is trained, all else is frozen.

    The original is a BERT method; the set of all biases is the one used in vision.

    Args:
        include_rel_pos_bias: Train the relative-position-bias tables of windowed attention too. They are no bias
            vectors and no part of BitFit proper, but published Swin figures count them.
    """

    include_rel_pos_bias: bool = True

    category = "specification"
    paper = "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models, ACL 2022"
    space = {"include_rel_pos_bias": [True, False]}
    mergeable = True
    needs_blocks = False

    def trains(self, param: HostParam) -> bool:
        roles = ("bias", "norm_bias", "rel_pos_bias") if self.include_rel_pos_bias else ("bias", "norm_bias")
        return param.role in roles

    def count(self, host: Host) -> int:
        # Per block of a ViT: two norms, qkv, proj, fc1, fc2.
        blocks = sum(bias_size(site.module) for b in host.blocks for site in b.sites.values())
        tables = sum(p.param.numel() for p in host.parameters() if p.role == "rel_pos_bias")
        around = sum(bias_size(m) for m in host.modules.values())
        return blocks + around + host.loose("bias", "norm_bias") + tables * self.include_rel_pos_bias
