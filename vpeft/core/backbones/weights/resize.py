"""Fitting weights to a backbone of another size: grids, windows, clip lengths, and images' weights on clips."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vpeft.core.backbones.weights.converted import Converted
from vpeft.errors import UserError

TABLE = "relative_position_bias_table"
EMBEDDINGS = ("pos_embed", "absolute_pos_embed")
CLIP_BUFFER = "buffer, worked out from the size of the clip"

Resized = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]


def inflate_kernels(weights: Converted, backbone: nn.Module) -> Resized:
    """Give, in place, kernels of images the tubelet of a clip's: repeated over its T frames, and divided by T.

    Args:
        weights: By the backbone's names.
        backbone: Gives the kernel sizes.

    Returns:
        Names of what was inflated, each with the shape before and after.
    """
    own, inflated = backbone.state_dict(), {}
    for name, tensor in weights.state.items():
        if name in own and tensor.dim() == 4 and own[name].dim() == 5:
            frames = own[name].shape[2]
            weights.state[name] = tensor.unsqueeze(2).repeat(1, 1, frames, 1, 1) / frames
            inflated[name] = (tuple(tensor.shape), tuple(weights.state[name].shape))
    return inflated


def fit_positions(weights: Converted, backbone: nn.Module, of_clips: bool = False) -> Resized:
    """Resize, in place, the position tables of ``weights`` that have another size than the backbone's.

    Args:
        weights: By the backbone's names.
        backbone: Gives grid, window and number of frames.
        of_clips: Whether the weights are a video backbone's.

    Returns:
        Names of what was resized, each with the shape before and after. Equal sizes are not touched.

    Raises:
        UserError: The file's size is not that of a square grid or window, or could be of several.
    """
    own, resized = backbone.state_dict(), {}
    for name, tensor in list(weights.state.items()):
        if name not in own or tensor.dim() != own[name].dim() or tensor.shape[-1:] != own[name].shape[-1:]:
            continue
        try:
            if name in EMBEDDINGS and tensor.dim() == 3:
                new = _fit_embedding(name, tensor, backbone, of_clips)
            elif name.endswith(TABLE) and tensor.dim() == 2:
                window = backbone.get_submodule(name.rpartition(".")[0]).window_size
                new = _fit_table(tensor, tuple(window), of_clips)
            else:
                continue
        except UserError as error:
            raise UserError(f"{weights.source[name]} has the shape {tuple(tensor.shape)}, {error}") from error
        if new is None:
            del weights.state[name]
            weights.left_out[weights.source[name]] = CLIP_BUFFER
        elif new is not tensor:
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


def resize_video_table(table: Tensor, times: int, window: Sequence[int]) -> Tensor:
    """A table of offsets in time and space for another window.

    Every offset in time keeps its meaning: a shorter window takes the middle ones, and those beyond the file's take
    its farthest. A table of images (``times=1``) is thereby repeated over all offsets in time.

    Args:
        table: ``(times (2w - 1)^2, heads)``, times before rows.
        times: Number of offsets in time, twice the window's length less one.
        window: Length, height and width of the new window.

    Returns:
        ``((2t - 1)(2h - 1)(2w - 1), heads)``.

    Raises:
        UserError: As for :func:`resize_table`.
    """
    slices = list(table.chunk(times))
    if (2 * window[1] - 1) * (2 * window[2] - 1) != len(slices[0]):
        slices = [resize_table(part, (window[1], window[2])) for part in slices]
    reach = times // 2
    offsets = torch.arange(1 - window[0], window[0]).clamp(-reach, reach) + reach
    return torch.cat([slices[offset] for offset in offsets])


def _fit_table(table: Tensor, window: tuple[int, ...], of_clips: bool) -> Tensor:
    sizes = [2 * extent - 1 for extent in window]
    if of_clips and len(table) == math.prod(sizes):
        return table
    if len(window) == 3:
        return resize_video_table(table, _times(len(table), sizes) if of_clips else 1, window)
    return table if len(table) == math.prod(sizes) else resize_table(table, window)


def _times(length: int, own: Sequence[int]) -> int:
    """The number of offsets in time of a table, whose window is square in space and shares a size with ``own``."""
    sides = (s for s in range(3, math.isqrt(length) + 1, 2) if length % s**2 == 0)
    shapes = [(length // s**2, s) for s in sides if length // s**2 % 2]
    near = [(t, s) for t, s in shapes if t == own[0] or own[1] == own[2] == s]
    fits = near or shapes
    if len(fits) != 1:
        window = "x".join(str((extent + 1) // 2) for extent in own)
        raise UserError(
            f"whose window (frames, height, width) {'is no square one' if not fits else 'could be several'} "
            f"beside the backbone's {window}: set the backbone's window_size to the file's."
        )
    return fits[0][0]


def _fit_embedding(name: str, embedding: Tensor, backbone: nn.Module, of_clips: bool) -> Tensor | None:
    own = backbone.state_dict()[name]
    grid = _grid(backbone, own)
    frames = 1 if len(grid) == 2 else grid[0]
    extra = own.shape[1] - math.prod(grid)
    if of_clips:
        return _fit_clip(name, embedding, grid, backbone)
    if frames == 1 and embedding.shape == own.shape:
        return embedding
    tokens = embedding.shape[1]
    if extra == 0 and tokens > 1 and math.isqrt(tokens - 1) ** 2 == tokens - 1:
        # A backbone without a class token has no place for it.
        embedding = embedding[:, 1:]
    side = math.isqrt(max(embedding.shape[1] - extra, 0))
    if side**2 + extra != embedding.shape[1] or side == 0:
        raise UserError(f"which is no square grid of patches and {extra} more: the backbone's is {tuple(own.shape)}.")
    mode = getattr(backbone, "interpolate_mode", "bicubic")
    return _resize_grid(embedding, (side, side), tuple(grid[-2:]), mode, extra).repeat(1, frames, 1)


def _fit_clip(name: str, embedding: Tensor, grid: tuple[int, ...], backbone: nn.Module) -> Tensor | None:
    """Positions ``(1, T H W, C)`` of a clip for another length or grid; None where the backbone works them out."""
    tokens, own = embedding.shape[1], math.prod(grid)
    if tokens == own:
        return embedding
    if name in dict(backbone.named_buffers()) and _is_sinusoid(embedding):
        return None
    frames, height, width = grid
    side = math.isqrt(tokens // frames)
    same_grid, same_frames = tokens % (height * width) == 0, frames * side**2 == tokens
    if same_grid == same_frames:
        raise UserError(
            f"and the backbone has {own} positions ({frames} x {height} x {width}), of which "
            f"{'either the frames or the grid' if same_grid else 'neither the frames nor the grid'} can be the file's: "
            "set img_size, num_frames and tubelet_size to the file's."
        )
    if same_frames:
        images = embedding.chunk(frames, dim=1)
        return torch.cat([_resize_grid(e, (side, side), (height, width), "bicubic", 0) for e in images], dim=1)
    series = embedding.unflatten(1, (-1, height * width)).squeeze(0).permute(1, 2, 0)
    return F.interpolate(series, size=frames, mode="linear").permute(2, 0, 1).flatten(0, 1).unsqueeze(0)


def _resize_grid(*args: Any) -> Tensor:
    from mmpretrain.models.utils import resize_pos_embed

    return resize_pos_embed(*args)


def _is_sinusoid(embedding: Tensor) -> bool:
    from mmaction.models.backbones.vit_mae import get_sinusoid_encoding

    return torch.allclose(embedding, get_sinusoid_encoding(*embedding.shape[1:]), atol=1e-4)


def _grid(backbone: nn.Module, own: Tensor) -> tuple[int, ...]:
    """Rows and columns of a backbone's positions, in video with the number of tubelets before them."""
    patch, tokens = backbone.patch_embed, own.shape[1]
    if hasattr(backbone, "grid_size"):
        return (tokens // math.prod(backbone.grid_size), *backbone.grid_size)
    size = getattr(patch, "grid_size", None) or getattr(patch, "init_out_size", None)
    if size is not None:
        return tuple(size)
    if hasattr(backbone, "img_size"):
        return tuple(extent // backbone.patch_size for extent in backbone.img_size)
    side = math.isqrt(tokens)
    if side**2 != tokens:
        raise UserError(
            f"and the backbone's grid of {tokens} patches is not square: set pretrain_img_size to a square."
        )
    return side, side
