"""(IA)3."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.modules.kept import keeps_output, scale
from vpeft.algorithms.reparameter.targets import Rows
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.contract.method import Method
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS


class Rescale(nn.Module):
    """``l * y`` on some channels.

    Args:
        dim: Channels.
        rows: First and last channel (exclusive) of each vector l, by name.
        output_is_kept: What follows keeps the result (:func:`.kept.keeps_output`).
    """

    def __init__(self, dim: int, rows: Rows, output_is_kept: bool = False) -> None:
        super().__init__()
        self.output_is_kept = output_is_kept
        self.dim, self.rows = dim, dict(sorted(rows.items(), key=lambda item: item[1]))
        self.scale = nn.ParameterDict({name: torch.empty(last - first) for name, (first, last) in self.rows.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All l one."""
        for name in self.rows:
            nn.init.ones_(self.scale[name])

    def whole(self) -> Tensor:
        """l of all channels, one where none is."""
        ones, parts, end = next(iter(self.scale.values())).new_ones, [], 0
        for name, (first, last) in self.rows.items():
            parts += [ones(first - end), self.scale[name]]
            end = last
        return torch.cat([*parts, ones(self.dim - end)])

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        gains = self.whole()
        return scale(y, gains, torch.zeros_like(gains), self.output_is_kept)

    def affine(self) -> tuple[Tensor, None]:
        """Diagonal l."""
        return self.whole(), None


@PEFT_METHODS.register_module(name="IA3")
@dataclass(kw_only=True)
class IA3(Method):
    """``K <- l_k * K``, ``V <- l_v * V`` in attention, ``h <- l_ff * h`` on what the MLP's last linear reads.

    Keys and values are scaled with their biases. A block without attention has l_ff alone.
    """

    category = "reparameter"
    paper = "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning, NeurIPS 2022, 3.3"
    mergeable = True
    unverified = "A language-model method, without biases there: that they are scaled too is as in HuggingFace's peft."

    def check(self, host: Host) -> None:
        if any(block.kind.unit_keys for block in host.blocks if "qkv" in block.sites):
            raise UserError(
                f"IA3 scales keys, and attention of {host.registered_name()} brings each channel of them to length "
                "one: a scale changes nothing. LoRA attaches there."
            )

    def build(self, host: Host) -> None:
        for block in host.blocks:
            if "qkv" in block.sites:
                module = Rescale(block.size("qkv")[1], self.scaled(block), keeps_output(block, "qkv"))
                block.place("qkv", "after", module, "qkv")
            inputs = block.size("fc2")[0]
            block.place("fc2", "before", Rescale(inputs, {"ff": (0, inputs)}), "fc2")

    @staticmethod
    def scaled(block: Block) -> Rows:
        """Rows of keys and values."""
        return {name: block.rows(name) for name in "kv"}

    def count(self, host: Host) -> int:
        rows = (rows for block in host.blocks if "qkv" in block.sites for rows in self.scaled(block).values())
        return sum(last - first for first, last in rows) + sum(block.size("fc2")[0] for block in host.blocks)
