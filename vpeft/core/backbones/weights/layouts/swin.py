"""Names of Swin weights: Microsoft's in the middle, timm's and OpenMMLab's around them.

They differ in where a stage's patch merging belongs, and in the order in which it lays neighbours side by side. The
official Video Swin and mmaction2's have Microsoft's names, with a kernel and windows in time.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from vpeft.core.backbones.weights.converted import Converted, key_patterns

#: Microsoft's names, left, and those of OpenMMLab's image ``SwinTransformer``.
OPENMMLAB = {
    "norm.*": "norm.*",
    "norm#.*": "norm#.*",
    "absolute_pos_embed": "absolute_pos_embed",
    "patch_embed.proj.*": "patch_embed.projection.*",
    "patch_embed.norm.*": "patch_embed.norm.*",
    "layers.#.blocks.#.norm#.*": "stages.#.blocks.#.norm#.*",
    "layers.#.blocks.#.attn.qkv.*": "stages.#.blocks.#.attn.w_msa.qkv.*",
    "layers.#.blocks.#.attn.proj.*": "stages.#.blocks.#.attn.w_msa.proj.*",
    "layers.#.blocks.#.attn.relative_position_bias_table": "stages.#.blocks.#.attn.w_msa.relative_position_bias_table",
    "layers.#.blocks.#.mlp.fc1.*": "stages.#.blocks.#.ffn.layers.0.0.*",
    "layers.#.blocks.#.mlp.fc2.*": "stages.#.blocks.#.ffn.layers.1.*",
    "layers.#.downsample.norm.*": "stages.#.downsample.norm.*",
    "layers.#.downsample.reduction.*": "stages.#.downsample.reduction.*",
}
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.(.+)")


def from_openmmlab(weights: Converted) -> Converted:
    """OpenMMLab's names, and its order in a merging, to Microsoft's; the last stage's norm becomes ``norm``."""
    last = _last_stage(weights)
    weights = _reorder(weights.renamed(key_patterns(OPENMMLAB, back=True)), official_order)
    return weights.renamed(key_patterns({f"norm{last}.*": "norm.*"}), strict=False)


def to_openmmlab(weights: Converted) -> Converted:
    """Microsoft's names, and its order in a merging, to OpenMMLab's."""
    return _reorder(weights.renamed(key_patterns(OPENMMLAB)), unfold_order)


def from_timm(weights: Converted) -> Converted:
    """Move every merging to the end of the stage before, where Microsoft keeps it."""
    return _move_mergings(weights, -1)


def to_timm(weights: Converted) -> Converted:
    """Move every merging to the start of the next stage, where timm keeps it."""
    return _move_mergings(weights, 1)


def number_norm(weights: Converted) -> Converted:
    """The one norm of official files, behind the last stage, under the number of that stage as in OpenMMLab."""
    return weights.renamed(key_patterns({"norm.*": f"norm{_last_stage(weights)}.*"}), strict=False)


def unfold_order(tensor: Tensor) -> Tensor:
    """Bring the last axis of a merging's norm or reduction into the order of mmcv's ``nn.Unfold``.

    Official: four blocks of C channels, one a neighbour, at (row, column) = (0, 0), (1, 0), (0, 1), (1, 1).
    Unfold: for each channel its four neighbours, row by row.

    Args:
        tensor: ``(..., 4C)`` in the official order.

    Returns:
        The same values, ``(..., 4C)``.
    """
    column_row_channel = tensor.unflatten(-1, (2, 2, tensor.shape[-1] // 4))
    return column_row_channel.transpose(-1, -3).flatten(-3)


def official_order(tensor: Tensor) -> Tensor:
    """The inverse of :func:`unfold_order`."""
    channel_row_column = tensor.unflatten(-1, (tensor.shape[-1] // 4, 2, 2))
    return channel_row_column.transpose(-1, -3).flatten(-3)


def _last_stage(weights: Converted) -> int:
    stages = (re.match(r"(?:layers|stages)\.(\d+)\.", name) for name in weights.state)
    return max((int(found[1]) for found in stages if found), default=0)


def _reorder(weights: Converted, order: Callable[[Tensor], Tensor]) -> Converted:
    for name, tensor in weights.state.items():
        if ".downsample." in name and tensor.shape[-1] % 4 == 0:
            weights.state[name] = order(tensor)
    return weights


def _move_mergings(weights: Converted, by: int) -> Converted:
    def move(name: str) -> str:
        found = _MERGING.fullmatch(name)
        return f"layers.{int(found[1]) + by}.downsample.{found[2]}" if found else name

    state = {move(name): tensor for name, tensor in weights.state.items()}
    source = {move(name): key for name, key in weights.source.items()}
    return Converted(state, source, weights.left_out, weights.unknown)
