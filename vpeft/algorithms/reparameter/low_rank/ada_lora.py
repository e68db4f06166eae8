"""AdaLoRA."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.host import Host
from vpeft.core.contract.training import TrainingPass, TrainingStep
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: The three factors of an update.
PARTS = ("left", "values", "right")


class Triplets(RowUpdates):
    """``s P diag(lambda) Q`` for each target, and how much each of its r triplets matters.

    Buffers ``kept_<target>`` ``(r,)`` say which triplets the last choice kept; they are stored with the adapter. The
    means over the steps, ``<part>_importance_<target>`` and ``<part>_spread_<target>``, are kept in training alone.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        rank: r.
        scale: s.
        drop: Dropout on the input.
    """

    def __init__(self, size: tuple[int, int], rows: Rows, rank: int, scale: float, drop: float) -> None:
        super().__init__(size, rows, drop)
        self.scale = scale
        sizes = {target: last - first for target, (first, last) in self.rows.items()}
        self.left = nn.ParameterDict({t: torch.empty(count, rank) for t, count in sizes.items()})
        self.values = nn.ParameterDict({t: torch.empty(rank) for t in sizes})
        self.right = nn.ParameterDict({t: torch.empty(rank, size[0]) for t in sizes})
        for target in sizes:
            self.register_buffer(f"kept_{target}", torch.ones(rank, dtype=torch.bool))
            for part in PARTS:
                for mean in ("importance", "spread"):
                    shape = getattr(self, part)[target].shape
                    self.register_buffer(f"{part}_{mean}_{target}", torch.zeros(shape), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """lambda zero, P and Q normal of std 0.02; everything kept, nothing seen."""
        for target in self.rows:
            nn.init.zeros_(self.values[target])
            nn.init.normal_(self.left[target], std=0.02)
            nn.init.normal_(self.right[target], std=0.02)
            self.get_buffer(f"kept_{target}").fill_(True)
            for part in PARTS:
                for mean in ("importance", "spread"):
                    self.get_buffer(f"{part}_{mean}_{target}").zero_()

    def change(self, target: str, x: Tensor) -> Tensor:
        return F.linear(F.linear(x, self.right[target]) * self.values[target], self.left[target]) * self.scale

    def dense(self, target: str) -> Tensor:
        return self.left[target] * self.values[target] @ self.right[target] * self.scale

    def orthogonality(self) -> Iterator[Tensor]:
        """``|P^T P - I|`` and ``|Q Q^T - I|`` of each target."""
        for target in self.rows:
            for matrix in (self.left[target].t(), self.right[target]):
                eye = torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
                yield torch.linalg.matrix_norm(matrix @ matrix.t() - eye)

    @torch.no_grad()
    def see(self, target: str, beta1: float, beta2: float) -> None:
        """Take the sensitivity ``|w dL/dw|`` of every number into its mean and the mean of its spread."""
        for part in PARTS:
            param = getattr(self, part)[target]
            if param.grad is None:
                continue
            importance, spread = (self.get_buffer(f"{part}_{mean}_{target}") for mean in ("importance", "spread"))
            now = (param * param.grad).abs()
            importance.mul_(beta1).add_(now, alpha=1 - beta1)
            spread.mul_(beta2).add_((now - importance).abs(), alpha=1 - beta2)

    def scores(self, target: str) -> Tensor:
        """How much each triplet matters: importance times spread, of lambda and in the mean of P's and Q's vector."""
        left, values, right = (
            self.get_buffer(f"{part}_importance_{target}") * self.get_buffer(f"{part}_spread_{target}")
            for part in PARTS
        )
        return values + (right.mean(1) + left.mean(0))

    @torch.no_grad()
    def keep(self, target: str, kept: Tensor) -> None:
        """Set lambda of all other triplets to zero."""
        self.get_buffer(f"kept_{target}").copy_(kept)
        self.values[target].masked_fill_(~kept, 0.0)


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class AdaLoRA(OnTargets):
    """``W <- W0 + (alpha / r) P diag(lambda) Q``, P (out, r), Q (r, in), of whose triplets a falling number stays.

    Every step of the optimiser updates, for each number w, ``I = |w dL/dw|``, ``I' <- b1 I' + (1 - b1) I`` and
    ``U' <- b2 U' + (1 - b2) |I - I'|``. A triplet's score is ``I' U'`` of its lambda plus the means of ``I' U'`` over
    its column of P and its row of Q. Over all targets together the triplets with the highest scores stay, and lambda of
    the others becomes zero; before the last part of the run they may come back. How many stay falls from ``rank`` to
    ``target_rank`` a target: all in a first part of the run, then ``b + (b0 - b) (1 - u)^3``, u from 0 to 1, and b in
    a last part, where nothing is scored any more. A loss ``|P^T P - I| + |Q Q^T - I|`` keeps P and Q nearly orthogonal.

    As in the authors' code: w in I is the value after the step, the norms of the loss are not squared and averaged over
    all P and Q, and r of the scale is the one at the start. In a run ``vpeft.PEFTHook`` gives the steps; another loop
    calls :func:`vpeft.follow_steps`, without which nothing is pruned. Which triplets
    stayed is stored (``kept_*``); the means are in a run's checkpoints alone.

    Args:
        rank: r at the start.
        target_rank: Mean of the ranks at the end.
        alpha: Numerator of the scale; None means r, a scale of 1.
        warmup: First part of the steps, in which nothing is pruned.
        final: Last part of the steps, in which the choice stays.
        interval: Steps from one choice to the next.
        beta1: b1.
        beta2: b2.
        orthogonality: Weight of the loss.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means q and v, in a block
            without attention fc1 and fc2.
        drop: Dropout on the input.
    """

    rank: int = 12
    target_rank: int = 8
    alpha: float | None = None
    warmup: float = 0.15
    final: float = 0.45
    interval: int = 1
    beta1: float = 0.85
    beta2: float = 0.85
    orthogonality: float = 0.1
    targets: tuple[str, ...] | None = None
    drop: float = 0.0

    category = "reparameter"
    paper = (
        "AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, ICLR 2023, 2303.10512, Section 3 and "
        "Algorithm 1"
    )
    space = {"rank": [8, 12, 16], "target_rank": [4, 8], "orthogonality": [0.1, 0.3, 0.5]}
    limits = {"warmup": (0, 1), "final": (0, 1), "beta1": (0, 0.9999), "beta2": (0, 0.9999), "orthogonality": (0, 1e6)}
    mergeable = True
    adds_losses = True
    reads_scores = False
    follows_steps = True
    unverified = (
        "A language-model method: q and v as targets are ours; the parts of the run are those of its RTE script."
    )

    def check(self, host: Host) -> None:
        super().check(host)
        self.need_width("rank", host)
        if self.target_rank > self.rank:
            raise UserError(f"AdaLoRA: target_rank={self.target_rank} is above rank={self.rank}, from which it falls.")
        if self.warmup + self.final > 1:
            raise UserError(f"AdaLoRA: warmup={self.warmup} and final={self.final} are more than the whole run.")

    def build(self, host: Host) -> None:
        scale = (self.rank if self.alpha is None else self.alpha) / self.rank
        for block, site, rows in self.linears(host):
            update = Triplets(block.size(site), rows, self.rank, scale, self.drop)
            block.place(site, "parallel", update, site)

    def updates(self, host: Host) -> list[tuple[Triplets, str]]:
        """Every module of it, with each of its targets."""
        found = [block.placed(host.method_key)[site] for block, site, _ in self.linears(host)]
        return [(module, target) for module in found for target in module.rows]

    def losses(self, host: Host, training: TrainingPass) -> dict[str, Tensor]:
        modules = {id(module): module for module, _ in self.updates(host)}.values()
        norms = [norm for module in modules for norm in module.orthogonality()]
        return {"loss_orthogonality": self.orthogonality * torch.stack(norms).mean()}

    def budget(self, step: TrainingStep, count: int) -> int | None:
        """How many triplets of ``count`` targets stay after a step, None where nothing is chosen in it."""
        first, last = round(self.warmup * step.total), self.last(step)
        if step.number > last or step.number == step.total:
            return self.target_rank * count
        if step.number <= first or step.number % self.interval:
            return None
        rest = 1 - (step.number - first) / (last - first)
        return int(self.target_rank * count + (self.rank - self.target_rank) * count * rest**3)

    def last(self, step: TrainingStep) -> int:
        """The step before the last part of the run."""
        return round((1 - self.final) * step.total)

    @torch.no_grad()
    def after_step(self, host: Host, step: TrainingStep) -> None:
        updates = self.updates(host)
        if step.number < self.last(step):
            for module, target in updates:
                module.see(target, self.beta1, self.beta2)
        budget = self.budget(step, len(updates))
        if budget is None:
            return
        scores = torch.cat([module.scores(target) for module, target in updates])
        # In their order where scores are equal, so that just as many stay as may.
        kept = torch.zeros_like(scores, dtype=torch.bool)
        kept[scores.sort(descending=True, stable=True).indices[:budget]] = True
        for (module, target), own in zip(updates, kept.split(self.rank), strict=True):
            module.keep(target, own)

    def count(self, host: Host) -> int:
        return sum(self.rank * (inputs + rows + 1) for inputs, rows in self.sizes(host))
