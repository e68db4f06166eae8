"""Features of images and clips that nothing was trained for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Pictures are made as small as this for their pixels, which is what the embedded ones have.
SIDE = 32
#: Filters, of so many pixels a side.
FILTERS, WINDOW = 64, 5


def mean_colour(images: np.ndarray) -> np.ndarray:
    """The mean of each channel. ``(N, C, H, W)`` or ``(N, C, T, H, W)`` to ``(N, C)``."""
    return images.reshape(*images.shape[:2], -1).mean(-1)


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Every value, of at most 32 pixels a side; of clips their middle frame."""
    return _small(_middle(images)).reshape(len(images), -1)


def random_filters(images: np.ndarray, places: int = 1) -> np.ndarray:
    """Responses of 64 random filters of 5 x 5 pixels, what is positive of them averaged over ``places x places`` parts.

    Args:
        images: ``(N, C, H, W)``, of clips their middle frame.
        places: Parts a side.

    Returns:
        ``(N, 64 places^2)``.
    """
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(_small(_middle(images)))).float()
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True).clamp(min=1e-6)
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(FILTERS, x.shape[1], WINDOW, WINDOW, generator=generator)
    filters -= filters.mean((1, 2, 3), keepdim=True)
    with torch.no_grad():
        maps = [F.relu(F.conv2d(part, filters)) for part in x.split(256)]
        return torch.cat([F.adaptive_avg_pool2d(part, places).flatten(1) for part in maps]).numpy()


def frame_differences(clips: np.ndarray) -> np.ndarray:
    """How much each of 8 x 8 places changes from a frame to the next, of ``(N, C, T, H, W)``: ``(N, (T - 1) 64)``."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(np.ascontiguousarray(clips)).float().mean(1)
    return F.adaptive_avg_pool2d((x[:, 1:] - x[:, :-1]).abs(), 8).flatten(1).numpy()


def _middle(images: np.ndarray) -> np.ndarray:
    return images[:, :, images.shape[2] // 2] if images.ndim == 5 else images


def _small(images: np.ndarray) -> np.ndarray:
    import torch
    import torch.nn.functional as F

    if max(images.shape[-2:]) <= SIDE:
        return images
    x = torch.from_numpy(np.ascontiguousarray(images)).float()
    return torch.cat([F.adaptive_avg_pool2d(part, SIDE) for part in x.split(64)]).numpy()


#: By the name that a table shows; those of clips alone have another function.
IMAGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean colour": mean_colour,
    "raw pixels": raw_pixels,
    "random filters": random_filters,
    "random filters, 4 x 4 places": lambda images: random_filters(images, 4),
}
CLIPS = {"frame differences": frame_differences}
