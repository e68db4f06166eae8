"""What a model gives for images: pooled features and class scores."""

from __future__ import annotations

from torch import Tensor, nn

from vpeft.errors import UserError


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """Features ``(B, D)`` in front of the head, the mean over places and over the clips of a sample."""
    if hasattr(model, "extract_feat"):
        out = model.extract_feat(images)
    elif hasattr(model, "forward_head"):
        out = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        out = model(images)
    if isinstance(out, tuple) and isinstance(out[-1], dict):  # a recogniser tells its head something besides
        out = out[0]
    out = out[-1] if isinstance(out, (tuple, list)) else out
    out = out if out.dim() == 2 else out.flatten(2).mean(2) if out.dim() > 3 else out.mean(1)
    return mean_of_clips(out, len(images))


def mean_of_clips(out: Tensor, samples: int) -> Tensor:
    """``(B, ...)`` of ``(B * clips, ...)``."""
    return out if len(out) == samples else out.unflatten(0, (samples, -1)).mean(1)


def class_scores(model: nn.Module, images: Tensor) -> Tensor:
    """Class scores ``(B, classes)``.

    Raises:
        UserError: The model has no classification head.
    """
    if getattr(model, "with_head", False):
        return model(images, mode="tensor")
    if getattr(model, "with_cls_head", False):
        return mean_of_clips(model(images, mode="tensor", stage="head"), len(images))
    if hasattr(model, "forward_head"):
        return model(images)
    raise UserError(f"{type(model).__name__} has no classification head whose scores could be read.")
