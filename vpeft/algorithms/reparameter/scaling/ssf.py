"""SSF: scaling and shifting deep features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vpeft.algorithms.modules.kept import keeps_output
from vpeft.algorithms.modules.scale_shift import ScaleShift
from vpeft.core.backbones.host import Host
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

BLOCK_SITES = ("norm1", "qkv", "value", "mix", "proj", "skip", "dwconv", "norm2", "fc1", "fc2")
INIT_STD = {"official": 0.02, "identity": 0.0}


def channels(module: nn.Module) -> int:
    """Output channels of a linear, convolution or norm."""
    return module.weight.shape[0]


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class SSF(Method):
    """``y <- gamma * y + beta`` per channel after every operation: patch embedding (and its norm), LN1, qkv, proj, LN2,
    fc1 (before GELU), fc2, of ConvNeXt's blocks the depthwise convolution too, the norms of patch mergings, and the
    output norms.

    Args:
        init: ``official`` draws gamma from N(1, 0.02) and beta from N(0, 0.02), so it does not start exactly as the
            frozen host; ``identity`` does.
        official_merging: Leave the norms of patch mergings alone, as the released Swin does (swin_transformer.py
            compares a list with a string, so that none is placed: 267,264 instead of 274,432 numbers on Swin-B).
            Placing them is what was meant, and the default.
    """

    init: str = "official"
    official_merging: bool = False

    category = "reparameter"
    paper = "Scaling & Shifting Your Features: A New Baseline for Efficient Model Tuning, NeurIPS 2022, Eq. 3"
    mergeable = True
    needs_blocks = False
    identity_at_start = False

    def check(self, host: Host) -> None:
        self.need_choice("init", INIT_STD)

    def build(self, host: Host) -> None:
        std = INIT_STD[self.init]
        for name, module in self.around(host).items():
            host.place(name, "after", ScaleShift(channels(module), std), name.replace(".", "_"))
        for block in host.blocks:
            for name, module in block.linears(*BLOCK_SITES):
                block.place(name, "after", ScaleShift(channels(module), std, keeps_output(block, name)), name)

    def around(self, host: Host) -> dict[str, nn.Module]:
        """The modules outside blocks; between two stages the norm alone, or nothing."""
        parts = ("reduction", "norm") if self.official_merging else ("reduction",)
        between = {f"downsample{stage}.{part}" for stage in host.downsamples for part in parts}
        return {name: module for name, module in host.modules.items() if name not in between}

    def count(self, host: Host) -> int:
        # A ViT's block: LN1 C, qkv 3C, proj C, LN2 C, fc1 its hidden width, fc2 C.
        around = sum(2 * channels(m) for m in self.around(host).values())
        return sum(2 * channels(m) for b in host.blocks for _, m in b.linears(*BLOCK_SITES)) + around
