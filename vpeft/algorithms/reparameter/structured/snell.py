"""SNELL."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.algorithms.reparameter.targets import OnTargets, Rows, RowUpdates
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.host import Host
from vpeft.errors import UserError
from vpeft.registry import PEFT_METHODS

#: Factor of the distances, in the authors' code.
FACTOR = 0.1


class SparseKernel(RowUpdates):
    """``D = 0.1 (|p1_i - q1_j| - |p2_i - q2_j|)`` for input i and row j, then ``D |D|`` where D is large, else 0.

    The mask multiplies by the magnitude, which is a constant for the gradient. D is made dense in every pass.

    Args:
        size: Inputs and outputs of the linear.
        rows: First and last row (exclusive) of each target.
        rank: Numbers of all vectors of one input, or of one row: two vectors of r / 2.
        sparsity: Share of the entries that become zero; 0 leaves D as it is.
        drop: Dropout on the input.
        drop_path: Share of the samples whose update is left out in training.
    """

    def __init__(
        self, size: tuple[int, int], rows: Rows, rank: int, sparsity: float, drop: float, drop_path: float
    ) -> None:
        from timm.layers import DropPath  # few methods need timm

        super().__init__(size, rows, drop)
        self.sparsity, self.drop_path = sparsity, DropPath(drop_path)
        sizes = {target: last - first for target, (first, last) in self.rows.items()}
        self.inputs = nn.ParameterDict({t: torch.empty(2, size[0], rank // 2) for t in sizes})
        self.outputs = nn.ParameterDict({t: torch.empty(2, count, rank // 2) for t, count in sizes.items()})
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-uniform with a = sqrt 5, as torch takes the shape: the inputs of a number are width times r / 2."""
        for values in (self.inputs, self.outputs):
            for target in self.rows:
                nn.init.kaiming_uniform_(values[target], a=math.sqrt(5))

    def kernel(self, target: str, dtype: torch.dtype) -> Tensor:
        """D ``(rows, in)``."""
        near, far = torch.cdist(self.outputs[target].to(dtype), self.inputs[target].to(dtype))
        return FACTOR * (near - far)

    def large(self, kernel: Tensor) -> Tensor:
        """Which entries stay: those above the quantile of their magnitudes."""
        size = kernel.detach().abs().flatten()
        stay = len(size) - 1 - math.floor(self.sparsity * (len(size) - 1))
        return kernel.detach().abs() >= size.topk(max(stay, 1)).values[-1]

    def dense(self, target: str, dtype: torch.dtype | None = None) -> Tensor:
        """The update, computed in ``dtype``; which entries stay is as in a pass, whatever that is."""
        own = torch.promote_types(self.inputs[target].dtype, torch.float32)
        kernel = self.kernel(target, own)
        if not self.sparsity:
            return kernel if dtype is None else self.kernel(target, dtype)
        stay = self.large(kernel)
        kernel = kernel if dtype is None else self.kernel(target, dtype)
        return kernel * kernel.detach().abs() * stay

    def change(self, target: str, x: Tensor) -> Tensor:
        return self.drop_path(F.linear(x, self.dense(target).to(x.dtype)))

    @torch.no_grad()
    def affine(self) -> tuple[Tensor, None]:
        """The dense update of all rows, and no shift."""
        like = next(iter(self.inputs.values()))
        whole = torch.zeros(self.out_features, self.in_features, dtype=torch.float64, device=like.device)
        for target, (first, last) in self.rows.items():
            whole[first:last] = self.dense(target, torch.float64)
        return whole, None


@PEFT_METHODS.register_module()
@dataclass(kw_only=True)
class SNELL(OnTargets):
    """``W <- W0 + D |D|`` where the size of D is above its quantile, ``D_ji = 0.1 (|p1_i - q1_j| - |p2_i - q2_j|)``: a
    kernel of low-rank factors, p (in, r / 2) and q (out, r / 2) twice, whose large entries alone change the weight.

    Which entries these are follows the factors in every step. What is trained and stored are the factors,
    ``r (in + out)`` numbers a target: 5.3 million on ViT-B with r = 32, far above the paper's counts, which are of the
    entries of the update that are not zero. It does not start as the frozen host: distances of two random pairs differ.
    D is made dense in every pass. To save memory the authors make it a second time in the backward pass, which their
    released code has switched off, and which is not done here.

    Args:
        rank: r, even; the authors have 8, 16 and 32.
        sparsity: Share of the entries of an update that are zero; 0 is the authors' dense kernel D.
        drop: Dropout on the inputs of every linear but proj.
        drop_path: Share of the samples whose update is left out in training, one draw for each target.
        targets: Any of ``q, k, v, proj, fc1, fc2``, or ``qkv`` for one joint update; None means all but ``qkv``, in a
            block without attention fc1 and fc2.
    """

    rank: int = 32
    sparsity: float = 0.9
    drop: float = 0.1
    drop_path: float = 0.1
    targets: tuple[str, ...] | None = None

    category = "reparameter"
    paper = "Expanding Sparse Tuning for Low Memory Usage, NeurIPS 2024, 2411.01800"
    identity_at_start = False
    space = {"rank": [8, 16, 32], "sparsity": [0.0, 0.5, 0.9, 0.99]}
    limits = {"sparsity": (0, 0.9999)}
    mergeable = True
    unverified = "Read in the authors' code alone: sections of the paper are not named."

    def targets_in(self, block: Block) -> tuple[str, ...]:
        if self.targets is not None:
            return self.targets
        attention = ("q", "k", "v") if "qkv" in block.sites else ()
        return (*attention, *(site for site in ("proj", "fc1", "fc2") if site in block.sites))

    def check(self, host: Host) -> None:
        super().check(host)
        if self.rank % 2:
            raise UserError(f"SNELL: rank={self.rank} must be even: every input has two vectors of half of it.")

    def build(self, host: Host) -> None:
        for block, site, rows in self.linears(host):
            drop = 0.0 if site == "proj" else self.drop
            module = SparseKernel(block.size(site), rows, self.rank, self.sparsity, drop, self.drop_path)
            block.place(site, "parallel", module, site)

    def count(self, host: Host) -> int:
        return self.rank * sum(inputs + rows for inputs, rows in self.sizes(host))
