"""Loading pretrained weights of any recognised format into a backbone, with an account of every key."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mmengine.logging import MMLogger
from torch import Tensor, nn

from vpeft.core.backbones.libraries import library_of
from vpeft.core.backbones.weights.converted import Converted
from vpeft.core.backbones.weights.read import read_weights
from vpeft.core.backbones.weights.recognise import NoWay, below
from vpeft.core.backbones.weights.remembered import remember_weights
from vpeft.core.backbones.weights.resize import Resized, fit_positions, inflate_kernels
from vpeft.core.backbones.weights.ways import Found, in_modules, ways
from vpeft.errors import UserError

#: Component of every key of an adapter parameter.
_PEFT = "peft"
_NOWHERE = 1 << 30
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
        resized: Position tables by the backbone's keys, with the shapes before and after; and the kernels of a patch
            embedding, which timm's converter resamples to another patch size.
        inflated: Kernels of images that were given frames, likewise.
        left_out: Keys of the file that are not loaded on purpose, each with the reason.
        kept: Keys of heads and output norms that the file does not hold; they keep their start.
        differing: Settings of the folder's config that are not the backbone's.
    """

    format: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: Resized = field(default_factory=dict)
    inflated: Resized = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def kernels(self) -> list[str]:
        """Those of :attr:`resized` that are no position tables: kernels of a patch embedding of another size."""
        return [key for key, (_, now) in self.resized.items() if key.endswith(".weight") and len(now) > 3]

    def __str__(self) -> str:
        """One line: format, counts, what was inflated, resized, left out and kept."""
        parts = [f"{self.format}: {len(self.loaded)} tensors loaded"]
        kernels = {key: shapes for key, shapes in self.resized.items() if key in self.kernels}
        tables = {key: shapes for key, shapes in self.resized.items() if key not in kernels}
        for changed, what in (
            (self.inflated, "inflated to frames"),
            (tables, "position tables resized"),
            (kernels, "KERNELS RESAMPLED TO ANOTHER PATCH SIZE"),
        ):
            if changed:
                first, (before, after) = next(iter(changed.items()))
                parts.append(f"{len(changed)} {what} ({first} {before} to {after}, ...)")
        reasons: dict[str, list[str]] = {}
        for key, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(key)
        parts += [f"left out {_some(keys)} ({reason})" for reason, keys in reasons.items()]
        if self.kept:
            parts.append(f"not in such files and at their start: {_some(self.kept)}")
        if self.differing:
            parts.append(f"OTHER SETTINGS in its config: {_some(self.differing)}")
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
        backbone: A model, plain or adapted. Keys with a component ``peft`` are adapter parameters, which no file is
            asked for; what says where their base comes from names this file afterwards.
        checkpoint: Path of the file, or of a folder as transformers, timm and open_clip write it; or an address such as
            ``vpeft://nano_vit``.
        prefix: Component before the backbone's keys in the file, with or without the final dot; None looks for it.
        strict: Whether missing and unexpected keys are errors; otherwise they are logged as a warning. The same goes
            for settings in the folder's ``config.json`` that are not the model's.
        logger: Logger for the one line of report; None means mmengine's.

    Returns:
        What became of every key.

    Raises:
        UserError: The file cannot be read, does not fit the backbone, a tensor has the wrong shape, or, with
            ``strict``, keys are missing or unexpected. Or what is attached has learned on other weights.
    """
    adapted = {n: vars(m)["peft_adaptation"] for n, m in backbone.named_modules() if "peft_adaptation" in vars(m)}
    for adaptation in adapted.values():
        if adaptation.merged or (adaptation.base.source != "never" and adaptation.base.moved()):
            raise UserError(
                f"{checkpoint}: what is attached to the model has learned on other weights, or is merged into them: "
                "vpeft.detach the model, load the file, and attach anew."
            )
    report = load_weights(backbone, checkpoint, prefix=prefix, strict=strict, logger=logger)
    for name, adaptation in adapted.items():
        if not report.missing:
            inside = ".".join(filter(None, (prefix.rstrip("."), name))) if prefix else None
            adaptation.base.loaded(str(checkpoint), None, inside)
        adaptation.snapshot()
    return report


def load_weights(
    backbone: nn.Module,
    checkpoint: str,
    *,
    prefix: str | None = None,
    strict: bool = True,
    logger: logging.Logger | None = None,
) -> LoadReport:
    """:func:`load_pretrained` for who keeps the account of what is attached."""
    try:
        state, left_out = read_weights(str(checkpoint))
        differing = _differences(backbone, str(checkpoint), strict)
        report = _load(backbone, state, left_out, prefix, strict)
        report.differing = differing
    except UserError as error:
        raise UserError(f"{checkpoint}: {error}") from error
    remember_weights(backbone, str(checkpoint), prefix)
    logger = logger or MMLogger.get_current_instance()
    doubtful = report.missing or report.unexpected or report.differing or report.kernels
    level = logging.WARNING if doubtful else logging.INFO
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
    own = backbone.state_dict()
    report, weights = _best(state, backbone, own, strict)
    report.left_out = left_out | report.left_out
    backbone.load_state_dict(weights.state, strict=False)
    report.loaded = sorted(weights.state)
    return report


def _best(
    state: dict[str, Tensor], backbone: nn.Module, own: dict[str, Tensor], strict: bool
) -> tuple[LoadReport, Converted]:
    """The first way in which the file fits; where it fits in none, the nearest, or what is wrong there."""
    tried: list[tuple[int, UserError | tuple[LoadReport, Converted]]] = []
    for found in ways(state, backbone):
        if isinstance(found, UserError):
            tried.append((_NOWHERE if isinstance(found, NoWay) else 0, found))
            continue
        report, weights = LoadReport(found.format, left_out=found.left_out), found.weights
        report.unexpected = weights.unknown + [weights.source[key] for key in weights.state if key not in own]
        report.missing, report.kept = _absent(backbone, found)
        wrong = len(report.missing) + len(report.unexpected)
        if wrong and strict:
            tried.append((wrong, UserError(_mismatch(report, weights, backbone))))
            continue
        try:
            _fit(report, found, backbone, own)
        except UserError as error:
            tried.append((wrong, error))
            continue
        if not wrong:
            return report, weights
        tried.append((wrong, (report, weights)))
    _, nearest = min(tried, key=lambda one: (one[0], isinstance(one[1], UserError)))
    if isinstance(nearest, UserError):
        raise nearest
    return nearest


def _fit(report: LoadReport, found: Found, backbone: nn.Module, own: dict[str, Tensor]) -> None:
    """Bring weights, in place, to the sizes of a backbone."""
    weights = found.weights
    weights.state = {key: tensor for key, tensor in weights.state.items() if key in own}
    if found.of_clips is not None:
        report.inflated = inflate_kernels(weights, backbone)
        report.resized = fit_positions(weights, backbone, of_clips=found.of_clips)
    report.resized |= {key: shapes for key, shapes in found.resized.items() if key in own}
    report.left_out |= weights.left_out
    _check_shapes(weights, own)
    _check_values(weights, own)


def _absent(backbone: nn.Module, found: Found) -> tuple[list[str], list[str]]:
    """Keys of the backbone that are not given: those it needs, and those that files may lack."""
    buffers = {key for key, value in backbone.named_buffers() if found.of_clips is not None or _is_counted(value)}
    # Every file has the norm of the last stage.
    last = f"norm{len(getattr(backbone, 'stages', getattr(backbone, 'layers', ()))) - 1}."
    missing, kept = [], []
    for key in backbone.state_dict():
        if key in found.weights.state or key in buffers or _PEFT in key.split("."):
            continue
        is_kept = re.fullmatch(found.kept, key) and not key.startswith(last)
        (kept if is_kept or in_modules(key, found.heads) else missing).append(key)
    return missing, kept


def _is_counted(buffer: Tensor) -> bool:
    """Whether a buffer holds positions or a count, which no file need bring, and no statistics of training."""
    return not buffer.is_floating_point()


def _differences(backbone: nn.Module, checkpoint: str, strict: bool) -> list[str]:
    """Settings of the folder's config that change what the same tensors compute."""
    of, folder = library_of(backbone), Path(checkpoint).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    if "://" in checkpoint or of is None or not of.owns(folder):
        return []
    differing = of.differences(folder, backbone)
    if differing and strict:
        raise UserError(
            f"{of.config} beside it has {_some(differing)}, so the weights would compute something else: build the "
            "model by that file (vpeft.load_backbone with the folder); load_pretrained(..., strict=False) loads them."
        )
    return differing


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
