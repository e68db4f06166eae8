"""DiffFit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.core.backbones.block import Block, HostParam
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.stated_linear import bias_size
from vpeft.core.contract.method import Method
from vpeft.registry import PEFT_METHODS

LINEARS = ("qkv", "value", "mix", "proj", "skip", "fc1", "fc2")


class Gamma(nn.Module):
    """``gamma * y`` per channel, gamma 1 at the start."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Ones."""
        nn.init.ones_(self.weight)

    def forward(self, y: Tensor, flow: Flow) -> Tensor:
        return y * self.weight.to(y.dtype)

    def affine(self) -> tuple[Tensor, None]:
        """Diagonal gamma, no shift."""
        return self.weight, None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class DiffFit(Method):
    """``x <- x + gamma_1 * MHSA(LN1 x)``, ``x <- x + gamma_2 * MLP(LN2 x)`` with gamma per channel; all biases and all
    norms are trained too. Relative-position tables are no biases and stay frozen.

    Args:
        gammas: ``branches`` as above, 2 C a block; ``linears`` on the output of qkv, proj, fc1 and fc2, 9 C a block of
            a ViT, as in two releases near the authors (DiT-3D, LLaMA-DiffFit).
    """

    gammas: str = "branches"

    category = "specification"
    paper = "DiffFit: Unlocking Transferability of Large Diffusion Models via Simple PEFT, ICCV 2023"
    mergeable = True
    needs_blocks = False
    unverified = (
        "The authors' code was not found; that gamma is a vector rests on two releases near them, which have one on "
        "every linear (gammas='linears')."
    )

    def check(self, host: Host) -> None:
        self.need_choice("gammas", ("branches", "linears"))

    def trains(self, param: HostParam) -> bool:
        return param.role in ("bias", "norm_bias", "norm_weight")

    def build(self, host: Host) -> None:
        for block in host.blocks:
            for name, (site, width) in self.places(block).items():
                block.place(site, "after", Gamma(width), name)

    def places(self, block: Block) -> dict[str, tuple[str, int]]:
        """Site and width of every gamma of a block, by its name."""
        if self.gammas == "linears":
            return {name: (name, block.size(name)[1]) for name, _ in block.linears(*LINEARS)}
        return {branch: (f"{branch}_branch", block.dim) for branch in block.units}

    def count(self, host: Host) -> int:
        sites = [site for block in host.blocks for site in block.sites.values()] + list(host.sites.values())
        modules = [site.module for site in sites if hasattr(site.module, "weight")]
        biases = sum(bias_size(m) for m in modules)
        norms = sum(m.weight.numel() for m in modules if m.weight.dim() == 1)
        return (
            biases
            + host.loose("bias", "norm_bias", "norm_weight")
            + norms
            + sum(width for block in host.blocks for _, width in self.places(block).values())
        )
