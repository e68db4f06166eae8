"""The compiled operators of mmcv that mmdet's detectors need, in plain torch: NMS, RoIAlign, sigmoid focal loss.

They have the names, arguments and in-place outputs of mmcv's compiled extension, so that everything above them, the
autograd functions included, stays mmcv's own. torchvision's compiled operators are used where they load.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vpeft.errors import UserError

#: Boxes whose overlaps with all others are held at once.
BLOCK = 512
#: Regions that are pooled at once.
REGIONS = 128


def torchvision_has_ops() -> bool:
    """Whether torchvision's compiled operators load."""
    import torchvision

    return torchvision.extension._has_ops()


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes: ``(N, 4)``, as x1, y1, x2, y2 in pixels.
        scores: ``(N,)``.
        iou_threshold: A box goes where its IoU with a better one that stays is above this.
        offset: Added to widths and heights (1 where the corners are pixels inside the box).

    Returns:
        Indices of the boxes that stay, the best first.
    """
    if offset == 0 and torchvision_has_ops():
        return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
    order = scores.sort(descending=True, stable=True).indices
    boxes = boxes[order].double()
    area = (boxes[:, 2:] - boxes[:, :2] + offset).prod(1)
    gone = np.zeros(len(boxes), dtype=bool)  # many small steps, each several times as fast as torch's
    kept = []
    for start in range(0, len(boxes), BLOCK):
        rows = torch.from_numpy(start + np.flatnonzero(~gone[start : start + BLOCK])).to(boxes.device)
        block, rest = boxes[rows, None], boxes[None, start:]
        corner = torch.maximum(block[..., :2], rest[..., :2])
        shared = (torch.minimum(block[..., 2:], rest[..., 2:]) - corner + offset).clamp(min=0).prod(2)
        # Without a division: boxes without an area suppress nothing.
        above = (shared > iou_threshold * (area[rows, None] + area[None, start:] - shared)).cpu().numpy()
        for row, suppressed in zip(rows.tolist(), above, strict=True):
            if not gone[row]:
                kept.append(row)
                gone[start:] |= suppressed
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Mean of bilinear samples in each cell of each region (Mask R-CNN), written to ``output``.

    Args:
        input: ``(N, C, H, W)``.
        rois: ``(K, 5)``: index of the image, x1, y1, x2, y2 in pixels of the image.
        output: ``(K, C, aligned_height, aligned_width)``.
        argmax_y: Not used: only pooling by the maximum has it.
        argmax_x: Not used.
        aligned_height: Rows of cells.
        aligned_width: Columns of cells.
        spatial_scale: From pixels of the image to those of the map.
        sampling_ratio: Samples per cell and axis; 0 takes one per pixel of the map, rounded up.
        pool_mode: 1 for the mean.
        aligned: Shift the region by half a pixel, so that pixel centres lie at whole numbers.

    Raises:
        UserError: Pooling by the maximum.
    """
    size = (aligned_height, aligned_width)
    _only_mean(pool_mode)
    if torchvision_has_ops():
        output.copy_(torch.ops.torchvision.roi_align(input, rois, spatial_scale, *size, sampling_ratio, aligned))
        return
    rows, columns = _weights(input, rois, size, spatial_scale, sampling_ratio, aligned)
    images = rois[:, 0].long()
    for image, chosen in _parts(images):
        if image is None:
            cells = torch.einsum("kph,kchw->kcpw", rows[chosen], input[images[chosen]])
        else:
            cells = torch.einsum("kph,chw->kcpw", rows[chosen], input[image])
        output[chosen] = torch.einsum("kcpw,kqw->kcpq", cells, columns[chosen])


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of :func:`roi_align_forward` towards its input, added to ``grad_input`` ``(N, C, H, W)``."""
    size = (aligned_height, aligned_width)
    _only_mean(pool_mode)
    if torchvision_has_ops():
        backward = torch.ops.torchvision._roi_align_backward
        grad_input.add_(backward(grad_output, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio, aligned))
        return
    rows, columns = _weights(grad_input, rois, size, spatial_scale, sampling_ratio, aligned)
    images = rois[:, 0].long()
    for image, chosen in _parts(images):
        cells = torch.einsum("kcpq,kqw->kcpw", grad_output[chosen], columns[chosen])
        if image is None:
            grad_input.index_add_(0, images[chosen], torch.einsum("kph,kcpw->kchw", rows[chosen], cells))
        else:
            grad_input[image] += torch.einsum("kph,kcpw->chw", rows[chosen], cells)


def _only_mean(pool_mode: int) -> None:
    if pool_mode != 1:
        raise UserError("RoIAlign with pool_mode='max' needs mmcv's compiled operators: use pool_mode='avg'.")


def _parts(images: Tensor) -> list[tuple[int | None, Tensor]]:
    """Regions that are pooled together, few enough for the memory: an image and indices, or None and all indices.

    Where most regions have an image of their own, as with masks, images are gathered instead.
    """
    different = images.unique().tolist()
    if 2 * len(different) > len(images):
        return [(None, part) for part in torch.arange(len(images), device=images.device).split(REGIONS)]
    chosen = [(image, (images == image).nonzero().flatten()) for image in different]
    return [(image, part) for image, indices in chosen for part in indices.split(REGIONS)]


def _weights(
    maps: Tensor, rois: Tensor, size: tuple[int, int], scale: float, sampling: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """What every row ``(K, cells, H)`` and every column ``(K, cells, W)`` of the map counts in every cell.

    The mean of bilinear samples on a grid is separable.
    """
    exact = torch.promote_types(rois.dtype, torch.float32)
    x1, y1, x2, y2 = (rois[:, 1:].to(exact) * scale - (0.5 if aligned else 0.0)).unbind(1)
    rows = _axis(y1, y2, maps.shape[2], size[0], sampling, aligned)
    columns = _axis(x1, x2, maps.shape[3], size[1], sampling, aligned)
    return rows.to(maps.dtype), columns.to(maps.dtype)


def _axis(start: Tensor, end: Tensor, pixels: int, cells: int, sampling: int, aligned: bool) -> Tensor:
    """How much every pixel of an axis counts in every cell: ``(K, cells, pixels)``."""
    length = end - start
    length = length if aligned else length.clamp(min=1.0)
    step = length / cells
    count = torch.full_like(step, sampling) if sampling > 0 else torch.ceil(step)
    most = int(count.max()) if len(count) else 1
    samples = torch.arange(max(most, 1), device=start.device)
    cell = torch.arange(cells, device=start.device)
    inside = samples < count[:, None]
    # (K, cells, samples)
    at = start[:, None, None] + cell[:, None] * step[:, None, None]
    at = at + (samples + 0.5) * (step / count.clamp(min=1))[:, None, None]
    counts = inside[:, None, :] & (at >= -1.0) & (at <= pixels)
    at = at.clamp(0, pixels - 1)
    low = at.floor().long().clamp(max=pixels - 1)
    high = (low + 1).clamp(max=pixels - 1)
    share = at - low
    each = counts / count.clamp(min=1)[:, None, None]
    weights = start.new_zeros(len(start), cells, pixels)
    weights.scatter_add_(2, low, (1 - share) * each)
    return weights.scatter_add_(2, high, share * each)


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of every logit, written to ``output``.

    Args:
        input: Logits ``(N, classes)``.
        target: ``(N,)``; ``classes`` stands for background.
        weight: ``(classes,)``, or empty for 1.
        output: ``(N, classes)``.
        gamma: Exponent.
        alpha: Weight of positives; negatives get ``1 - alpha``.
    """
    output.copy_(_focal(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The gradient of :func:`sigmoid_focal_loss_forward`'s sum, written to ``grad_input``."""
    with torch.enable_grad():
        logits = input.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(_focal(logits, target, weight, gamma, alpha).sum(), logits)
    grad_input.copy_(gradient)


def _focal(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> Tensor:
    positive = F.one_hot(target, logits.shape[1] + 1)[:, :-1].to(logits.dtype)
    entropy = F.binary_cross_entropy_with_logits(logits, positive, reduction="none")
    wrong = (logits.sigmoid() - positive).abs()
    loss = (alpha * positive + (1 - alpha) * (1 - positive)) * wrong**gamma * entropy
    return loss * weight[target.clamp(max=len(weight) - 1), None] if len(weight) else loss
