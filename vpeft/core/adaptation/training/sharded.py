"""The frozen weights of blocks, shared out among processes (FSDP2).

Each process keeps its part of every block's frozen weights; a block's are gathered when it runs, forward and backward,
and given up behind it (``torch.distributed.fsdp.fully_shard``). Whatever is trained, and everything that a method has
placed, stays whole in every process: it is a small part, its gradients are averaged as without sharding, and
checkpoints, adapter files and optimisers are those of a run that shares nothing out.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.backbones.host import is_peft_key
from vpeft.core.backbones.kept.few_bits import FewBits
from vpeft.errors import UserError


def check_shardable(found: Iterable[Adaptation]) -> None:
    """Refuse what cannot be shared out, before anything is.

    Raises:
        UserError: There is one process, nothing is adapted, no blocks, or weights are kept in few bits.
    """
    found = list(found)
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        raise UserError("strategy='fsdp' shares weights out among processes, and there is one: give --launcher.")
    if not found or not any(one.host.blocks for one in found):
        raise UserError("strategy='fsdp' shares out the blocks of an adapted backbone, and this model has none.")
    for adaptation in found:
        if any(isinstance(p.param, FewBits) for p in adaptation.host.parameters()):
            raise UserError(
                "strategy='fsdp' does not share out weights in few bits: take base_dtype='bfloat16', or one process."
            )


def share_out(adaptation: Adaptation) -> int:
    """Share out the frozen weights of an adaptation's blocks.

    What is known of the base is worked out before, as no process has all of it afterwards.

    Args:
        adaptation: The adaptation; its base has its weights.

    Returns:
        The number of parameters that are shared out.
    """
    adaptation.base.settled = adaptation.base.describe()
    device = next(adaptation.host.backbone.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    count = 0
    for block in adaptation.host.blocks:
        whole = {param for name, param in block.module.named_parameters() if param.requires_grad or is_peft_key(name)}
        shared = [param for param in block.module.parameters() if param not in whole]
        if shared and len({param.dtype for param in shared}) == 1:
            fully_shard(block.module, mesh=mesh, ignored_params=whole)
            count += sum(param.numel() for param in shared)
    return count


def whole_bytes(model: nn.Module) -> tuple[int, int]:
    """Bytes of a model's parameters in this process, and what they would be in one process."""
    here = whole = 0
    for param in model.parameters():
        local = param.to_local() if hasattr(param, "to_local") else param
        here, whole = here + local.nbytes, whole + param.numel() * param.element_size()
    return here, whole
