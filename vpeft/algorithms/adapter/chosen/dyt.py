"""DyT: dynamic tuning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vpeft.algorithms.adapter.bottleneck.adaptformer import AdaptFormer
from vpeft.algorithms.modules.stateless import Stateless
from vpeft.core.backbones.host import Host
from vpeft.core.backbones.sites.flow import Flow
from vpeft.core.backbones.sites.passes import in_program
from vpeft.core.contract.training import TrainingPass
from vpeft.errors import UserError
from vpeft.registry import MODELS, PEFT_METHODS


class Dispatcher(nn.Module):
    """Decides per token of the map: ``m = [sigmoid((w^T x + c + G1 - G2) / tau) > 1/2]``, with the straight-through
    gradient of the sigmoid; G are Gumbel noises, in training only. Tokens off the map always pass.
    """

    def __init__(self, key: str, dim: int, temperature: float) -> None:
        super().__init__()
        self.key, self.temperature = key, temperature
        self.score = nn.Linear(dim, 1)
        self.complete = False
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Truncated normal of std 0.02, no bias."""
        nn.init.trunc_normal_(self.score.weight, std=0.02)
        nn.init.zeros_(self.score.bias)

    def forward(self, x: Tensor, flow: Flow) -> Tensor:
        """Keeps the mask ``(B, tokens)`` in the flow, None where everything passes; x goes on untouched."""
        mask = None
        if not self.complete:
            score = self.score(x[:, flow.prefix :]).squeeze(-1).float()
            if self.training:
                noise = -torch.empty_like(score).exponential_().log() + torch.empty_like(score).exponential_().log()
                score = score + noise
            soft = torch.sigmoid(score / self.temperature)
            mask = (soft > 0.5).to(soft.dtype) + (soft - soft.detach())
            mask = torch.cat((mask.new_ones(len(mask), flow.prefix), mask), dim=1).to(x.dtype)
        flow.state.setdefault(self.key, {})[flow.index] = mask
        return x


class Skip(Stateless):
    """Lets only the chosen tokens through the MLP: without a graph the others are not computed."""

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key

    def around(self, operation: Callable[[Tensor], Tensor], x: Tensor, flow: Flow) -> Tensor:
        mask = flow.state[self.key][flow.index]
        if mask is None:
            return operation(x)
        if torch.is_grad_enabled() or in_program():  # a program has sizes that are known
            return operation(x) * mask.unsqueeze(-1)
        chosen = mask > 0.5
        rows = x[chosen]
        rows = operation(rows) if len(rows) else rows  # convolutions refuse none
        return rows.new_zeros(x.shape).masked_scatter_(chosen.unsqueeze(-1), rows)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class DyT(AdaptFormer):
    __doc__ = f"""AdaptFormer's block in which a dispatcher decides per token who passes the MLP:
    ``x <- x + m DP(MLP(LN2 x)) + s Adapter(x)``, ``m = [sigmoid((w^T x + c + G1 - G2) / tau) > 1/2]``
    (straight-through; Gumbel noise in training only; class tokens always pass). At inference the tokens with m = 0 are
    not computed.

    Training adds, in a second pass with m = 1, the complete model's loss, and
    :class:`~vpeft.algorithms.adapter.chosen.dyt.DyTLoss`. Two passes and activation checkpointing do not go together:
    torch stops where a block that is run again would let other tokens through.

    The authors train VTAB-1k with s = 1 and a learning rate of 1e-3, complete data sets, segmentation and video with
    s = 0.1; their script has the bottleneck 16, the published count that of 8.

    Args:
        temperature: tau.
        target: Share of the tokens that is to pass.

    AdaptFormer: {AdaptFormer.__doc__}"""

    bottleneck: int = 8
    scale: float = 1.0
    drop: float = 0.1
    temperature: float = 5.0
    target: float = 0.5

    category = "adapter"
    paper = "Dynamic Tuning Towards Parameter and Inference Efficiency for ViT Adaptation, NeurIPS 2024"
    space = {"bottleneck": [4, 8, 16, 32], "scale": [0.1, 0.5, 1.0], "target": [0.5, 0.7, 0.9]}
    limits = {"target": (0.01, 1)}
    identity_at_start = False
    adds_losses = True
    when_compiled = "all tokens go through the MLPs and are masked: how many would pass hangs on the image."

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_tokens(host)
        if any(block.norm_behind for block in host.blocks):
            raise UserError(
                f"DyT chooses tokens before a block's second norm; those of {host.registered_name()} stand behind the "
                "branches."
            )

    def build(self, host: Host) -> None:
        super().build(host)
        for block in host.blocks:
            block.place("norm2", "before", Dispatcher(host.method_key, block.dim, self.temperature), "dispatcher")
            block.place("mlp_branch", "around", Skip(host.method_key), "skip")

    def losses(self, host: Host, training: TrainingPass) -> dict[str, Tensor]:
        dispatchers = [block.placed(host.method_key)["dispatcher"] for block in host.blocks]
        masks = [host.flow.state[host.method_key][b.index][:, host.prefix :] for b in host.blocks]
        for module in dispatchers:
            module.complete = True
        try:
            losses, scores = training.again()
        finally:
            for module in dispatchers:
                module.complete = False
        complete = sum(value.mean() for name, value in losses.items() if "loss" in name)
        return {"loss_complete": complete, **DyTLoss(self.target)(masks, training.scores, scores)}

    def count(self, host: Host) -> int:
        return super().count(host) + sum(b.dim + 1 for b in host.blocks)


@MODELS.register_module()
class DyTLoss(nn.Module):
    """``2 (mean m - target)^2 + KL(complete || dynamic)``, the complete model's scores detached.

    Dynamic Tuning, NeurIPS 2024. The cross entropies of both models are the head's own.

    Args:
        target: Share of the tokens that is to pass the MLPs.
        rate_weight: Weight of the first term.
    """

    def __init__(self, target: float = 0.5, rate_weight: float = 2.0) -> None:
        super().__init__()
        self.target, self.rate_weight = target, rate_weight

    def forward(self, masks: list[Tensor], dynamic: Tensor, complete: Tensor) -> dict[str, Tensor]:
        """Losses from the masks of all blocks ``(B, n)`` and both models' scores ``(B, classes)``."""
        rate = torch.stack([mask.mean() for mask in masks]).mean()
        ours, theirs = dynamic.log_softmax(-1), complete.detach().log_softmax(-1)
        divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
        return {"loss_rate": self.rate_weight * (rate - self.target) ** 2, "loss_divergence": divergence}
