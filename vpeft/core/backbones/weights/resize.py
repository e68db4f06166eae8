"""Position embeddings of another grid, and relative-position tables of another window."""

from __future__ import annotations

import math

import torch.nn.functional as F
from mmpretrain.models.utils import resize_pos_embed
from torch import Tensor, nn

from vpeft.core.backbones.weights.converted import Converted
from vpeft.errors import UserError

TABLE = "relative_position_bias_table"
EMBEDDINGS = ("pos_embed", "absolute_pos_embed")


def fit_positions(weights: Converted, backbone: nn.Module) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Resize, in place, the position tables of ``weights`` that have another size than the backbone's.

    Args:
        weights: By the backbone's names.
        backbone: Gives grid and window sizes.

    Returns:
        Names of what was resized, each with the shape before and after. Equal sizes are not touched.

    Raises:
        UserError: The file's size is not that of a square grid or window.
    """
    own = backbone.state_dict()
    resized = {}
    for name, tensor in weights.state.items():
        if name not in own or tensor.shape == own[name].shape or tensor.shape[-1] != own[name].shape[-1]:
            continue
        try:
            if name in EMBEDDINGS and tensor.dim() == own[name].dim() == 3:
                new = _fit_embedding(tensor, own[name], backbone)
            elif name.endswith(TABLE) and tensor.dim() == own[name].dim() == 2:
                window = backbone.get_submodule(name.rpartition(".")[0]).window_size
                new = resize_table(tensor, window)
            else:
                continue
        except UserError as error:
            raise UserError(f"{weights.source[name]} has the shape {tuple(tensor.shape)}, {error}") from error
        resized[name] = (tuple(tensor.shape), tuple(new.shape))
        weights.state[name] = new
    return resized


def resize_table(table: Tensor, window: tuple[int, int]) -> Tensor:
    """Bicubic resizing as in the official Swin code (mmpretrain's own needs a function that SciPy has removed).

    Args:
        table: ``((2w - 1)^2, heads)`` of a square window of w x w tokens.
        window: Height and width of the new window.

    Returns:
        ``((2h - 1)(2w - 1), heads)``, in the dtype of ``table``.

    Raises:
        UserError: The table's length is not the square of an odd number.
    """
    side = math.isqrt(len(table))
    if side**2 != len(table) or side % 2 == 0:
        raise UserError(f"and {len(table)} is not the square of an odd number: the table of a square window is.")
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    grid = table.float().T.unflatten(1, (side, side)).unsqueeze(0)
    return F.interpolate(grid, size=size, mode="bicubic").squeeze(0).flatten(1).T.to(table.dtype).contiguous()


def _fit_embedding(embedding: Tensor, own: Tensor, backbone: nn.Module) -> Tensor:
    patch = backbone.patch_embed
    grid = patch.grid_size if hasattr(patch, "grid_size") else patch.init_out_size
    extra = own.shape[1] - grid[0] * grid[1]
    tokens = embedding.shape[1]
    if extra == 0 and tokens > 1 and math.isqrt(tokens - 1) ** 2 == tokens - 1:
        # A backbone without a class token has no place for it.
        embedding = embedding[:, 1:]
    side = math.isqrt(max(embedding.shape[1] - extra, 0))
    if side**2 + extra != embedding.shape[1] or side == 0:
        raise UserError(f"which is no square grid of patches and {extra} more: the backbone's is {tuple(own.shape)}.")
    mode = getattr(backbone, "interpolate_mode", "bicubic")
    return resize_pos_embed(embedding, (side, side), tuple(grid), mode, extra)
