"""Multi-scale deformable attention, in torch alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Heights and widths of maps whose tokens stand one after the other.
Sizes = tuple[tuple[int, int], ...]


class DeformableAttention(nn.Module):
    """Each query looks at a few places of each level: ``out(sum_{l,p} a_lp V_l(r + o_lp / (W_l, H_l)))``, by head.

    ``r`` is the query's own place in an image of unit size, the offsets ``o = offsets(q)`` are in places of level l,
    and the weights ``a = softmax(weights(q))`` add up to 1 over levels and places together. ``V = value(v)`` is sampled
    bilinearly, zeros outside; in torch alone, without a compiled operator.

    Args:
        dim: Width of queries and values, C.
        inner: Width of V.
        heads: Heads.
        levels: Maps that are looked at.
        points: Places in each of them, by head.
    """

    def __init__(self, dim: int, inner: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.value = nn.Linear(dim, inner)
        self.offsets = nn.Linear(dim, heads * levels * points * 2)
        self.weights = nn.Linear(dim, heads * levels * points)
        self.out = nn.Linear(inner, dim)

    def reset_parameters(self) -> None:
        """Every head looks into a direction of its own, at distances from 1, with equal weights; Xavier otherwise."""
        for linear in (self.value, self.out):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for linear in (self.offsets, self.weights):
            nn.init.zeros_(linear.weight)
        nn.init.zeros_(self.weights.bias)
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ahead = torch.stack((angles.cos(), angles.sin()), -1)
        ahead = ahead / ahead.abs().amax(-1, keepdim=True)
        ahead = ahead[:, None, None] * torch.arange(1, self.points + 1)[:, None]
        with torch.no_grad():
            self.offsets.bias.copy_(ahead.expand(-1, self.levels, -1, -1).flatten())

    def forward(self, q: Tensor, places: Tensor, v: Tensor, sizes: Sizes) -> Tensor:
        """Queries ``(B, N, C)`` at ``places`` ``(N, 2)`` (x, y), values ``(B, M, C)`` of the maps of ``sizes``."""
        shape = (self.heads, self.levels, self.points)
        wide = torch.promote_types(q.dtype, torch.float32)  # places of a large map are no numbers of half precision
        offsets = self.offsets(q).to(wide).unflatten(-1, (*shape, 2))
        weights = self.weights(q).unflatten(-1, (self.heads, -1)).softmax(-1).unflatten(-1, shape[1:])
        value, total = self.value(v), 0
        for level, (size, part) in enumerate(zip(sizes, value.split([h * w for h, w in sizes], 1), strict=True)):
            spatial = part.transpose(1, 2).reshape(-1, part.shape[-1] // self.heads, *size)  # (B heads, c, h, w)
            at = places.to(wide)[:, None, None] + offsets[:, :, :, level] / offsets.new_tensor(size[::-1])
            grid = (2 * at - 1).transpose(1, 2).flatten(0, 1)
            seen = F.grid_sample(spatial.to(wide), grid, padding_mode="zeros", align_corners=False).to(value.dtype)
            weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)
            total = total + (seen * weight.to(seen.dtype)[:, None]).sum(-1)  # (B heads, c, N)
        return self.out(total.reshape(len(q), -1, q.shape[1]).transpose(1, 2))


def centres(sizes: Sizes, like: Tensor) -> Tensor:
    """The middles ``(N, 2)``, x and y, of the places of maps, one after the other, in an image of unit size."""
    wide, found = torch.promote_types(like.dtype, torch.float32), []
    for height, width in sizes:
        y, x = ((torch.arange(size, device=like.device, dtype=wide) + 0.5) / size for size in (height, width))
        found.append(torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), -1).flatten(0, 1))
    return torch.cat(found)


def as_maps(tokens: Tensor, sizes: Sizes) -> list[Tensor]:
    """Tokens ``(B, N, C)`` of several maps as these maps ``(B, C, h, w)``."""
    parts = tokens.split([height * width for height, width in sizes], 1)
    return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]
