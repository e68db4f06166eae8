"""Loading pretrained weights of any recognised format into a backbone, with an account of every key."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from vpeft.core.backbones.weights.converted import Converted
from vpeft.core.backbones.weights.read import read_weights
from vpeft.core.backbones.weights.recognise import (
    FORMATS,
    VIDEO,
    below,
    convert,
    find_prefix,
    layout_of,
    reason_outside,
    recognise,
)
from vpeft.core.backbones.weights.resize import Resized, fit_positions, inflate_kernels
from vpeft.errors import UserError

#: Component of every key of an adapter parameter.
_PEFT = "peft"
#: Options of backbones that decide whether they have a key.
_OPTIONS = {
    "patch_embed.projection.bias": "patch_bias",
    "pos_embed": "use_learnable_pos_emb",
}


@dataclass
class LoadReport:
    """What became of every key of a file and of a backbone.

    Attributes:
        format: The file's format.
        loaded: Keys of the backbone that were loaded.
        missing: Keys of the backbone that the file should hold and does not.
        unexpected: Keys of the file for which the backbone has no place.
        resized: Position tables by the backbone's keys, with the shapes before and after.
        inflated: Kernels of images that were given frames, likewise.
        left_out: Keys of the file that are not loaded on purpose, each with the reason.
        kept: Keys of output norms that such files never hold; they keep their start.
    """

    format: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: Resized = field(default_factory=dict)
    inflated: Resized = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line: format, counts, what was inflated, resized, left out and kept."""
        parts = [f"{self.format}: {len(self.loaded)} tensors loaded"]
        for changed, what in ((self.inflated, "inflated to frames"), (self.resized, "position tables resized")):
            if changed:
                first, (before, after) = next(iter(changed.items()))
                parts.append(f"{len(changed)} {what} ({first} {before} to {after}, ...)")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(key)
        parts += [f"left out {_some(keys)} ({reason})" for reason, keys in reasons.items()]
        if self.kept:
            parts.append(f"not in such files and at their start: {_some(self.kept)}")
        if self.missing:
            parts.append(f"MISSING {_some(self.missing)}")
        if self.unexpected:
            parts.append(f"UNEXPECTED {_some(self.unexpected)}")
        return "; ".join(parts)


def load_pretrained(
    backbone: nn.Module,
    checkpoint: str,
    *,
    prefix: str | None = None,
    strict: bool = True,
    logger: logging.Logger | None = None,
) -> LoadReport:
    """Load pretrained weights into a backbone; where anything is wrong the backbone stays as it was.

    Args:
        backbone: A ViT or Swin of OpenMMLab or timm, plain or adapted. Keys with a component ``peft`` are adapter
            parameters, which no file is asked for.
        checkpoint: Path of the file, or an address such as ``vpeft://nano_vit``.
        prefix: Component before the backbone's keys in the file, with or without the final dot; None looks for
            ``backbone.`` and ``module.`` by itself.
        strict: Whether missing and unexpected keys are errors; otherwise they are logged as a warning.
        logger: Logger for the one line of report; None means mmengine's.

    Returns:
        What became of every key.

    Raises:
        UserError: The file cannot be read, is in no known format or of another architecture, a tensor has the wrong
            shape, or, with ``strict``, keys are missing or unexpected.
    """
    try:
        state, left_out = read_weights(str(checkpoint))
        report = _load(backbone, state, left_out, prefix, strict)
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    logger = logger or MMLogger.get_current_instance()
    level = logging.WARNING if report.missing or report.unexpected else logging.INFO
    logger.log(level, f"Loaded {checkpoint} as {report}.")
    return report


def _load(
    backbone: nn.Module, state: dict[str, Tensor], left_out: dict[str, str], prefix: str | None, strict: bool
) -> LoadReport:
    if prefix:
        prefix = prefix.rstrip(".") + "."
        inside = below(state, prefix)
        if not inside:
            heads = ", ".join(sorted({key.split(".")[0] for key in state})[:8])
            raise UserError(f"no key begins with the prefix {prefix!r}; the keys' first components: {heads}.")
        left_out |= {key: f"outside {prefix!r}" for key in state if not key.startswith(prefix)}
        state = inside
    name = recognise(state, backbone)
    found = find_prefix(state)
    left_out |= {key: reason_outside(found) for key in state if not key.startswith(found)}
    state = below(state, found)

    weights = convert(state, name, backbone)
    report = LoadReport(name)
    own = backbone.state_dict()
    report.unexpected = weights.unknown + [weights.source[key] for key in weights.state if key not in own]
    report.missing, report.kept = _absent(backbone, weights.state)
    if strict and (report.missing or report.unexpected):
        raise UserError(_mismatch(report, weights, backbone))
    weights.state = {key: tensor for key, tensor in weights.state.items() if key in own}
    report.inflated = inflate_kernels(weights, backbone)
    report.resized = fit_positions(weights, backbone, of_clips=FORMATS[name].holds.startswith(VIDEO))
    report.left_out = left_out | weights.left_out
    _check_shapes(weights, own)
    _check_values(weights, own)
    backbone.load_state_dict(weights.state, strict=False)
    report.loaded = sorted(weights.state)
    return report


def _absent(backbone: nn.Module, given: Collection[str]) -> tuple[list[str], list[str]]:
    """Keys of the backbone that are not given: those it needs, and the output norms that files may lack."""
    buffers = {name for name, _ in backbone.named_buffers()}
    layout = layout_of(backbone)
    # Every file has the norm of the last stage.
    last = f"norm{len(getattr(backbone, 'stages', getattr(backbone, 'layers', ()))) - 1}."
    missing, kept = [], []
    for key in backbone.state_dict():
        is_head = layout.startswith("timm") and key.split(".")[0] in ("head", "head_drop")
        if key in given or key in buffers or is_head or _PEFT in key.split("."):
            continue
        is_kept = re.fullmatch(FORMATS[layout].kept, key) and not key.startswith(last)
        (kept if is_kept else missing).append(key)
    return missing, kept


def _check_shapes(weights: Converted, own: dict[str, Tensor]) -> None:
    wrong = [key for key, tensor in weights.state.items() if tensor.shape != own[key].shape]
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{len(wrong)} of {len(weights.state)} tensors have the wrong shape, first {weights.source[key]}: "
            f"the file's gives {tuple(weights.state[key].shape)}, the backbone's {key} is {tuple(own[key].shape)}. "
            "Set the backbone's arch, patch_size, in_channels and frames to the file's."
        )


def _check_values(weights: Converted, own: dict[str, Tensor]) -> None:
    for key, tensor in weights.state.items():
        if own[key].is_floating_point() and not tensor.is_floating_point():
            raise UserError(
                f"{weights.source[key]} holds {str(tensor.dtype).removeprefix('torch.')} values, and the backbone's "
                f"{key} floating-point ones: give weights that are neither quantised nor rounded."
            )
        if not torch.isfinite(tensor).all():
            raise UserError(f"{weights.source[key]} holds NaN or infinity: fetch the file again, or take another one.")


def _mismatch(report: LoadReport, weights: Converted, backbone: nn.Module) -> str:
    parts = []
    if report.missing:
        parts.append(f"lacks {_some(report.missing)}")
    if report.unexpected:
        parts.append(f"has {_some(report.unexpected)} with no place in the backbone")
    differing = {*report.missing, *(weights.state.keys() - backbone.state_dict().keys())}
    options = "".join(f" ({option})" for key, option in _OPTIONS.items() if key in differing)
    return (
        f"read as {report.format} for {type(backbone).__name__}, it {' and '.join(parts)}. "
        f"Set the backbone's depth and options{options} to the file's; "
        "load_pretrained(..., strict=False) loads what fits."
    )


def _some(keys: list[str], count: int = 3) -> str:
    rest = f", ... ({len(keys)} in all)" if len(keys) > count else ""
    return ", ".join(keys[:count]) + rest
