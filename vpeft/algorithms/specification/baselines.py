"""The two ends that every method is compared with: full fine-tuning and the linear probe."""

from __future__ import annotations

from dataclasses import dataclass

from vpeft.core.backbones.block import HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.core.contract.search_space import HIGH_LR, LOW_LR
from vpeft.registry import PEFT_METHODS


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Full(Method):
    """Full fine-tuning: every parameter of the base is trained; those that lead to no output stay as they are."""

    category = "baseline"
    paper = "Baseline"
    space = {"lr": LOW_LR}
    memory = "M2w"
    mergeable = True
    needs_blocks = False

    def trains(self, param: HostParam) -> bool:
        return param.role != "unused"

    def count(self, host: Host) -> int:
        return sum(p.param.numel() for p in host.parameters() if self.trains(p))


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class Linear(Method):
    """Linear probe: nothing of the base is trained, only the head, and the base stays in eval mode."""

    category = "baseline"
    paper = "Baseline"
    space = {"lr": HIGH_LR}
    memory = "M0"
    needs_all_blocks = "it trains the head alone"
    mergeable = True
    needs_blocks = False
    base_eval = True

    def count(self, host: Host) -> int:
        return 0
