"""VFPT: visual Fourier prompt tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vpeft.algorithms.prompt.vpt import Prompts, VPTDeep, insert, prompt_bound
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.registry import PEFT_METHODS

#: Axes of the prompts ``(..., p, D)`` that each choice transforms.
AXES = {"all": (-2, -1), "sequence": (-2,), "hidden": (-1,)}
NORMS = {"none": "backward", "ortho": "ortho"}


class FourierPrompts(Prompts):
    """``[Re(F(P_1..P_m)); P_(m+1)..P_p]``: the first m prompts pass a discrete Fourier transform."""

    def __init__(self, length: int, dim: int, bound: float, drop: float, first: int, axes: str, norm: str) -> None:
        self.first, self.axes, self.norm = first, AXES[axes], NORMS[norm]
        super().__init__(length, dim, bound, drop)

    def transformed(self, tokens: Tensor) -> Tensor:
        """The prompts ``(..., p, D)`` as they enter the stream."""
        if not self.first:
            return tokens
        changed = tokens[..., : self.first, :]
        if changed.dtype in (torch.half, torch.bfloat16):  # torch transforms no such numbers
            changed = changed.float()
        changed = _real_transform(changed, self.axes, self.norm).to(tokens.dtype)
        return torch.cat((changed, tokens[..., self.first :, :]), dim=-2)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        tokens = self.transformed(self.drop(self.weight.expand(x.shape[0], -1, -1)))
        return insert(x, tokens.to(x.dtype), flow)

    def folded(self) -> dict[str, Tensor]:
        """The prompts of VPT-Deep that do the same."""
        return {"weight": self.transformed(self.weight)}


def _real_transform(x: Tensor, axes: tuple[int, ...], norm: str) -> Tensor:
    """``Re(FFT(x))`` over the axes; in a program by matrices of cosines and sines, which every exporter has."""
    if not in_program():
        return torch.fft.fftn(x, dim=axes, norm=norm).real
    real, imaginary = x, torch.zeros_like(x)
    for axis in axes:
        size = int(x.shape[axis])
        turns = torch.arange(size, dtype=torch.float64)
        angles = 2 * math.pi * (turns[:, None] * turns % size) / size
        scale = size**-0.5 if norm == "ortho" else 1.0
        cos, sin = ((f(angles) * scale).to(x) for f in (torch.cos, torch.sin))
        real, imaginary = (part.transpose(axis, -1) for part in (real, imaginary))
        real, imaginary = real @ cos + imaginary @ sin, imaginary @ cos - real @ sin
        real, imaginary = (part.transpose(axis, -1) for part in (real, imaginary))
    return real


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class VFPT(VPTDeep):
    """VPT-Deep whose first ``m = floor(alpha p)`` prompts of every block enter as
    ``P_F = Re(FFT_tokens(FFT_channels(P)))``, so that ``[CLS; P_F; P; patches]`` runs through the block. With the
    matrices of cosines C and sines S this is ``C_m P C_D - S_m P S_D``: linear in P and the same for every image. At
    inference it is VPT-Deep with other values, and can be stored as such
    (``vpeft.save_adapter(model, path, folded=True)``).

    Args:
        prompt_length: Prompts p.
        alpha: Fraction of them that is transformed; the authors search it by task, from 0 to 1.
        axes: Over what: ``all`` (tokens and channels, the authors' default), ``sequence`` or ``hidden``.
        norm: ``none`` is the authors': the start grows by about ``sqrt(m D / 2)``. ``ortho`` divides by the square root
            of the number of values that are summed up.
        drop: Dropout on P, before the transform. 0.1 in the authors' commands.
        pool_prompts: As of VPTDeep.
    """

    prompt_length: int = 10
    alpha: float = 0.5
    axes: str = "all"
    norm: str = "none"

    paper = "Visual Fourier Prompt Tuning, NeurIPS 2024, 2411.01327, section unverified"
    space = {**VPTDeep.space, "alpha": [0.0, 0.3, 0.5, 0.7, 1.0], "norm": ["none", "ortho"]}
    limits = {"alpha": (0, 1)}

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_choice("axes", AXES)
        self.need_choice("norm", NORMS)

    def prompts(self, host: Host, block: Block) -> Prompts:
        first = math.floor(self.alpha * self.prompt_length)
        settings = (self.prompt_length, block.dim_in, prompt_bound(host), self.drop)
        return FourierPrompts(*settings, first, self.axes, self.norm)

    def folded(self) -> VPTDeep:
        return VPTDeep(prompt_length=self.prompt_length, drop=self.drop, pool_prompts=self.pool_prompts)
