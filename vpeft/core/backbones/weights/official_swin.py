"""Swin weights: Microsoft's official files and timm's state dicts, which differ in where a stage's merging belongs."""

from __future__ import annotations

import re
from collections.abc import Collection

from torch import Tensor

from vpeft.core.backbones.weights.converted import BUFFER, DECODER, HEAD, Converted

OFFICIAL = "official_swin"
TIMM = "timm_swin"
ANCHOR = r"layers\.0\.blocks\.0\.norm1\.weight"

_NAMES = {
    r"absolute_pos_embed": r"\g<0>",
    r"patch_embed\.proj\.(weight|bias)": r"patch_embed.projection.\1",
    r"patch_embed\.norm\.(weight|bias)": r"\g<0>",
    r"layers\.(\d+)\.blocks\.(\d+)\.norm([12])\.(weight|bias)": r"stages.\1.blocks.\2.norm\3.\4",
    r"layers\.(\d+)\.blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)": r"stages.\1.blocks.\2.attn.w_msa.\3.\4",
    r"layers\.(\d+)\.blocks\.(\d+)\.attn\.(relative_position_bias_table)": r"stages.\1.blocks.\2.attn.w_msa.\3",
    r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.(weight|bias)": r"stages.\1.blocks.\2.ffn.layers.0.0.\3",
    r"layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.(weight|bias)": r"stages.\1.blocks.\2.ffn.layers.1.\3",
    r"layers\.(\d+)\.downsample\.(norm\.weight|norm\.bias|reduction\.weight)": r"stages.\1.downsample.\2",
}
_LEFT_OUT = {
    r"head\..+": HEAD,
    r"mask_token|decoder\..+": DECODER,
    r"layers\.\d+\.blocks\.\d+\.(attn_mask|attn\.relative_position_index)": BUFFER,
}
_MERGING = re.compile(r"layers\.(\d+)\.downsample\.(.+)")


def is_official(state: Collection[str]) -> bool:
    """Official files keep a merging at the end of a stage (0 has one), timm at the start of the next (0 has none)."""
    return any(key.startswith("layers.0.downsample.") for key in state)


def official_to_timm(weights: Converted) -> Converted:
    """Move every merging to the start of the next stage, where timm keeps it."""
    return _move_mergings(weights, 1)


def to_timm(weights: Converted, backbone_keys: Collection[str]) -> Converted:
    """Weights for timm's own ``SwinTransformer``, whatever its keys: everything but head and buffers."""
    return weights.renamed({r".+": r"\g<0>"}, _LEFT_OUT)


def to_mmpretrain(weights: Converted, backbone_keys: Collection[str]) -> Converted:
    """Weights by the names, and in the order of channels, of OpenMMLab's ``SwinTransformer``.

    Args:
        weights: By timm's names.
        backbone_keys: Keys of the backbone, which numbers its output norms by stage.

    Returns:
        The renamed weights; the only norm of these files is that of the last stage.
    """
    last = max((int(found[1]) for key in weights.state if (found := re.match(r"layers\.(\d+)\.", key))), default=0)
    names, reasons = dict(_NAMES), dict(_LEFT_OUT)
    if f"norm{last}.weight" in backbone_keys:
        names[r"norm\.(weight|bias)"] = rf"norm{last}.\1"
    else:
        reasons[r"norm\.(weight|bias)"] = f"norm of stage {last}, which is not in the backbone's out_indices"
    weights = _move_mergings(weights, -1).renamed(names, reasons)
    for name, tensor in weights.state.items():
        if ".downsample." in name and tensor.shape[-1] % 4 == 0:
            weights.state[name] = unfold_order(tensor)
    return weights


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


def _move_mergings(weights: Converted, by: int) -> Converted:
    def move(name: str) -> str:
        found = _MERGING.fullmatch(name)
        return f"layers.{int(found[1]) + by}.downsample.{found[2]}" if found else name

    state = {move(name): tensor for name, tensor in weights.state.items()}
    source = {move(name): key for name, key in weights.source.items()}
    return Converted(state, source, weights.left_out, weights.unknown)
