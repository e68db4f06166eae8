"""Do neck and heads fit the backbone? Asked of a model that is built, before the first image finds out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from vpeft.core.models.feature_pyramid import SimpleFeaturePyramid
from vpeft.core.models.maps import Backbone
from vpeft.errors import UserError

#: What the heads of models are called.
HEADS = ("decode_head", "auxiliary_head", "head", "cls_head", "bbox_head", "rpn_head")


def check_channels(model: nn.Module) -> None:
    """Compare what is behind every ``vpeft.Backbone`` of a model with what it gives, and heads with the features of a
    method whose width is its own.

    Raises:
        UserError: A neck, or a head without a neck before it, states other ``in_channels``; or anchors or regions are
            stated for other strides than a simple feature pyramid gives.
    """
    for name, module in model.named_modules():
        backbone = module._modules.get("backbone")
        if backbone is not None and (width := method_width(backbone)) is not None:
            _check_heads(f"{name}." if name else "", module, width)
            continue
        if isinstance(backbone, Backbone):
            where = f"{name}." if name else ""
            for part, reader in _readers(module):
                _check_widths(f"{where}{part}", reader, backbone)
            if isinstance(module._modules.get("neck"), SimpleFeaturePyramid):
                _check_strides(where, module, module.neck.strides(backbone.widths_and_strides()[1][-1]), backbone)


def method_width(backbone: nn.Module) -> int | None:
    """Width of the features that a method gives in the place of the backbone's (``out_width``); None without one."""
    for adaptation in (vars(module).get("peft_adaptation") for module in backbone.modules()):
        for method in adaptation.methods.values() if adaptation is not None else ():
            if (width := method.out_width(adaptation.host)) is not None:
                return width
    return None


def _check_heads(where: str, model: nn.Module, width: int) -> None:
    for name in HEADS:
        stated = getattr(model._modules.get(name), "in_channels", None)
        if isinstance(stated, int) and stated != width:
            raise UserError(
                f"{where}{name}.in_channels={stated} does not fit the method, which gives {width} features: set "
                f"{where}{name}.in_channels={width}."
            )


def _readers(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """What reads the backbone's outputs: the neck, or else the heads."""
    names = ["neck"] if module._modules.get("neck") is not None else HEADS
    for name in names:
        part = module._modules.get(name)
        if isinstance(part, nn.ModuleList):
            yield from ((f"{name}[{i}]", one) for i, one in enumerate(part))
        elif part is not None:
            yield name, part


def _check_widths(name: str, reader: nn.Module, backbone: Backbone) -> None:
    stated, gives = getattr(reader, "in_channels", None), backbone.widths_and_strides()[0]
    if not isinstance(stated, (int, Sequence)):
        return
    wanted = _selected(gives, getattr(reader, "in_index", None), isinstance(stated, int))
    if (stated if isinstance(stated, int) else list(stated)) != wanted:
        raise UserError(
            f"{name}.in_channels={stated} does not fit the backbone {backbone.of}, which gives maps of {gives} "
            f"channels: set {name}.in_channels={wanted}, or other out_indices of the backbone."
        )


def _selected(gives: list[int], index: int | Sequence[int] | None, one: bool) -> int | list[int]:
    """Widths of the outputs that a neck or head takes; ``one`` where it takes one map, or several side by side."""
    if isinstance(index, Sequence):  # of mmseg's heads
        chosen = [gives[i] for i in index if -len(gives) <= i < len(gives)]
        return sum(chosen) if one else chosen
    if one:
        return gives[-1 if index is None or index >= len(gives) else index]
    return gives


def _check_strides(where: str, model: nn.Module, gives: list[float], backbone: Backbone) -> None:
    for name, module in model.named_modules():
        anchors = getattr(getattr(module, "prior_generator", None), "strides", None)
        stated = [pair[0] if isinstance(pair, Sequence) else pair for pair in anchors or ()]
        key, stated = ("anchor_generator.strides", stated) if stated else ("featmap_strides", None)
        stated = stated or list(getattr(module, "featmap_strides", None) or ())
        if stated != gives[: len(stated)]:
            raise UserError(
                f"{where}{name}.{key}={stated} does not fit the maps of {where}neck on the backbone {backbone.of}: set "
                f"{key}={gives[: len(stated)]}."
            )
