"""What a model gives for images: pooled features and class scores."""

from __future__ import annotations

from collections import deque
from typing import Any

from torch import Tensor, nn

from vpeft.errors import UserError

#: Linears that are remembered of a pass: a model's head is among the last that run.
_LAST = 8


def pooled_features(model: nn.Module, images: Tensor) -> Tensor:
    """Features ``(B, D)`` in front of the head, the mean over places and over the clips of a sample.

    Of a model of no known form they are what enters the linear that gives its class scores, and without one its output.
    """
    if hasattr(model, "extract_feat"):
        out = model.extract_feat(images)
    elif hasattr(model, "forward_head"):
        out = model.forward_head(model.forward_features(images), pre_logits=True)
    else:
        given, scores, entered = _with_head(model, images)
        out = entered if entered is not None else scores if scores is not None else _features_of(model, given)
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
    if not hasattr(model, "extract_feat"):
        given, scores, entered = _with_head(model, images)
        if scores is not None and (entered is not None or scores is not given):
            return scores
    raise UserError(f"{type(model).__name__} has no classification head whose scores could be read.")


def _with_head(model: nn.Module, images: Tensor) -> tuple[Any, Tensor | None, Tensor | None]:
    """A model's output, the scores in it, and what entered the linear that gave them; None where there is none."""
    seen: deque[tuple[Tensor, Tensor]] = deque(maxlen=_LAST)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    hooks = [m.register_forward_hook(lambda _, args, out: seen.append((args[0], out))) for m in linears]
    try:
        given = model(images)
    finally:
        for hook in hooks:
            hook.remove()
    scores = getattr(given, "logits", given)
    scores = scores if isinstance(scores, Tensor) else None
    found = [entered for entered, out in seen if out is scores]
    if not found and scores is not None and scores.dim() == 2:  # a softmax or a cast behind the head keeps its shape
        found = [entered for entered, out in seen if out.shape == scores.shape][-1:]
    return given, scores, found[0] if found else None


def _features_of(model: nn.Module, given: Any) -> Any:
    """The features in what a bare backbone gives: of transformers the pooled ones, else its tokens or its maps."""
    for name in ("pooler_output", "last_hidden_state"):
        if isinstance(found := getattr(given, name, None), Tensor):
            return found
    if isinstance(given, (tuple, list)) and given and isinstance(given[-1], Tensor):
        return given
    raise UserError(f"{type(model).__name__} gives {type(given).__name__}, in which no features are known.")
