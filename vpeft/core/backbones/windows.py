"""Windowed attention with tokens that are not on the map: shared by the Swin hosts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def spread(prefix: Tensor, windows: Tensor) -> Tensor:
    """Put every image's prefix tokens before the tokens of each of its windows.

    Args:
        prefix: ``(B, P, C)``.
        windows: ``(B * nW, N, C)``, image by image.

    Returns:
        ``(B * nW, P + N, C)``.
    """
    count = windows.shape[0] // prefix.shape[0]
    return torch.cat((prefix.repeat_interleave(count, dim=0), windows), dim=1)


def gather(windows: Tensor, images: int, length: int) -> tuple[Tensor, Tensor]:
    """The inverse of :func:`spread`: prefix tokens averaged over an image's windows, and the windows without them.

    Args:
        windows: ``(B * nW, P + N, C)``, image by image.
        images: B.
        length: P.
    """
    prefix = windows[:, :length].reshape(images, -1, length, windows.shape[-1]).mean(1)
    return prefix, windows[:, length:]


def pad_bias(bias: Tensor, queries: int, keys: int) -> Tensor:
    """Zero-pad a bias or mask ``(..., N, N)`` at its front to ``(..., queries, keys)``.

    Prompts and prefixes have no position in the window: they stand first and get neither bias nor mask.
    """
    n_q, n_k = bias.shape[-2:]
    if (n_q, n_k) == (queries, keys):
        return bias
    return F.pad(bias, (keys - n_k, 0, queries - n_q, 0))
