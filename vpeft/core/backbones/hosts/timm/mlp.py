"""The MLPs of timm's blocks: plain, or gated by one half of their hidden layer."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.core.backbones.block_forward import SiteBlock
from vpeft.core.backbones.sites.stated_linear import StackedLinear, StatedLinear

#: Full names of the classes, for ``site_parts``.
MLPS = ("timm.layers.mlp.Mlp", "timm.layers.mlp.GluMlp", "timm.layers.mlp.SwiGLU", "timm.models.vitamin.GeGluMlp")


def mlp_modules(mlp: nn.Module) -> dict[str, nn.Module | StatedLinear | None]:
    """The modules behind ``fc1``, ``act`` and ``fc2``; a gate is no module's call alone."""
    if hasattr(mlp, "fc1_g"):
        return {"fc1": StackedLinear(mlp.fc1_g, mlp.fc1_x), "act": None, "fc2": mlp.fc2}
    if hasattr(mlp, "w0"):
        return {"fc1": StackedLinear(mlp.w0, mlp.w1), "act": None, "fc2": mlp.w2}
    return {"fc1": mlp.fc1, "act": None if hasattr(mlp, "gate_last") else mlp.act, "fc2": mlp.fc2}


def run_mlp(block: SiteBlock, mlp: nn.Module, x: Tensor) -> Tensor:
    """The MLP of a block through the block's sites."""
    if hasattr(mlp, "fc1_g"):
        x = block.site_gate(lambda gate, x: mlp.act(gate) * x, *block.site_linears("fc1", x))
    elif hasattr(mlp, "w0"):  # its norm is ahead of its linears
        halves = block.site_linears("fc1", mlp.norm(x))
        return mlp.drop2(mlp.w2(mlp.drop1(block.site_gate(lambda gate, x: mlp.act(gate) * x, *halves))))
    elif hasattr(mlp, "gate_last"):
        last = mlp.gate_last
        gate = (lambda x, gate: x * mlp.act(gate)) if last else (lambda gate, x: mlp.act(gate) * x)
        x = block.site_gate(gate, *mlp.fc1(x).chunk(2, dim=-1))
    else:
        return mlp(x)
    return mlp.drop2(mlp.fc2(mlp.norm(mlp.drop1(x))))
