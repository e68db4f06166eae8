"""What training takes of memory, worked out before anything is built: weights, adapter, optimiser, activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from vpeft.core.adaptation.adaptation import Adaptation
from vpeft.core.adaptation.attach import attach
from vpeft.core.adaptation.values.base_dtype import HALVES, named_base_dtype
from vpeft.core.backbones.block import Block
from vpeft.core.backbones.kept.few_bits import BITS, group_of
from vpeft.core.contract.build import build_methods
from vpeft.errors import UserError

#: AdamW keeps two numbers a parameter, in float32.
_STATES = 2


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one process.

    Attributes:
        frozen: The frozen base; of blocks its part, where several processes share them.
        gathered: A block's frozen weights while it runs, where several processes share them; the weight of a linear
            that is read, where it is kept in few bits.
        adapter: What is trained, and its gradients, in float32.
        optimiser: AdamW's state of it.
        activations: What the backward pass needs, in the precision of the base.
    """

    frozen: int
    gathered: int
    adapter: int
    optimiser: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.frozen + self.gathered + self.adapter + self.optimiser + self.activations


def training_memory(
    model: nn.Module,
    method: str | Mapping[str, Any],
    size: int,
    base_dtype: Any = None,
    batch: int = 1,
    processes: int = 1,
) -> TrainingMemory:
    """The memory that training an adapter takes.

    Activations are those of the floor (docs/cost.md): for each token of a block of width C the inputs of both norms, q,
    k, v, the output of attention and the input of the activation; of a gated MLP of width H the two halves and their
    gate's output, 3 H; q and k once more where attention knows places, as rotary positions make them anew while v
    keeps the storage of all three. The input of one linear a block (C, in float32) is counted besides, as LoRA keeps
    it.

    Args:
        model: A float32 backbone of plain blocks, as a rule on the meta device
            (:func:`vpeft.core.models.build.meta_build`); the method is attached to it.
        method: The method.
        size: Height and width of the images.
        base_dtype: As in ``vpeft.attach``; None means float32.
        batch: Images of a process.
        processes: Among how many the blocks' frozen weights are shared (``strategy="fsdp"``).

    Raises:
        UserError: The backbone has stages, or few bits are to be shared among processes.
    """
    kept = named_base_dtype(base_dtype)
    if kept is not None and kept.bits and processes > 1:
        raise UserError(
            "weights in few bits are not shared out among processes: processes=1, or base_dtype='bfloat16'."
        )
    (adaptation,) = attach(model, build_methods(method))
    host = adaptation.host
    if len({block.dim for block in host.blocks}) != 1:
        raise UserError("the memory is worked out for backbones of one width, and this one has stages.")
    width = 4 if kept is None or kept.half is None else HALVES[kept.half].itemsize
    blocks, rest = _frozen_bytes(adaptation, width, None if kept is None else kept.bits)
    tokens = batch * (host.prefix + (size // host.patch_size[0]) * (size // host.patch_size[1]))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    largest = max(b.size("fc1")[0] * b.size("fc1")[1] for b in host.blocks) * width
    return TrainingMemory(
        frozen=sum(blocks) // processes + rest,
        gathered=max(blocks) if processes > 1 else largest if kept is not None and kept.bits else 0,
        adapter=2 * 4 * trained,
        optimiser=_STATES * 4 * trained,
        activations=tokens * sum(_per_token(block) * width + 4 * block.dim for block in host.blocks),
    )


def _per_token(block: Block) -> int:
    """Numbers that a frozen block keeps of one token."""
    outputs = block.size("fc1")[1]
    hidden = 3 * block.hidden if outputs == 2 * block.hidden else outputs
    placed = 0 if block.kind.any_tokens else 2 * block.inner
    return 2 * block.dim + block.size("qkv")[1] + placed + block.inner + hidden


def _frozen_bytes(adaptation: Adaptation, width: int, bits: str | None) -> tuple[list[int], int]:
    """Bytes of the frozen base: of each block, and of the rest."""
    blocks, rest = dict.fromkeys((block.index for block in adaptation.host.blocks), 0), 0
    linears = {id(m.weight) for m in adaptation.host.backbone.modules() if isinstance(m, nn.Linear)}
    for p in adaptation.host.parameters():
        if p.param.requires_grad:
            continue
        size = p.param.numel() * width
        if bits and id(p.param) in linears:
            rows, columns = p.param.shape
            group = columns if bits == "int8" else group_of(columns)
            if group is not None:  # a float32 scale, and in int4 a zero point of one byte
                size = p.param.numel() * BITS[bits] // 8 + rows * columns // group * (4 if bits == "int8" else 5)
        if p.block is None:
            rest += size
        else:
            blocks[p.block.index] += size
    return list(blocks.values()), rest
