"""Which format a file is in, which layout a backbone has, and the converter between the two."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from vpeft.core.backbones.weights import google_npz, official_swin, openmmlab, timm_vit
from vpeft.core.backbones.weights.converted import Converted
from vpeft.errors import UserError

#: Prefixes that whole models and data-parallel wrappers put before a backbone's keys; tried in this order.
PREFIXES = ("", "backbone.", "module.", "module.backbone.")
#: Formats with the architecture that they hold.
FORMATS = {
    google_npz.NAME: "ViT",
    timm_vit.NAME: "ViT",
    openmmlab.VIT: "ViT",
    official_swin.OFFICIAL: "Swin",
    official_swin.TIMM: "Swin",
    openmmlab.SWIN: "Swin",
}
_ANCHORS = {
    google_npz.NAME: google_npz.ANCHOR,
    timm_vit.NAME: timm_vit.ANCHOR,
    openmmlab.VIT: openmmlab.VIT_ANCHOR,
    openmmlab.SWIN: openmmlab.SWIN_ANCHOR,
    official_swin.TIMM: official_swin.ANCHOR,
}


def format_of(keys: Mapping[str, object]) -> str | None:
    """The format whose distinguishing key is among ``keys`` (without prefix), None where there is none."""
    for name, anchor in _ANCHORS.items():
        if any(re.fullmatch(anchor, key) for key in keys):
            is_official = name == official_swin.TIMM and official_swin.is_official(keys)
            return official_swin.OFFICIAL if is_official else name
    return None


def layout_of(backbone: nn.Module) -> str:
    """The format in which a backbone keeps its own weights, told by its keys and not by its class.

    Args:
        backbone: A ViT or Swin of OpenMMLab or timm, plain or adapted.

    Returns:
        ``openmmlab_vit``, ``openmmlab_swin``, ``timm_vit`` or ``timm_swin``.

    Raises:
        UserError: It is none of these.
    """
    layout = format_of(backbone.state_dict())
    if layout is None or layout in (google_npz.NAME, official_swin.OFFICIAL):
        raise UserError(
            f"weights can be loaded into ViT and Swin backbones of mmpretrain and timm, and {type(backbone).__name__} "
            "has the keys of none of them: use load_from, or a backbone of these kinds."
        )
    return layout


def recognise(state: Mapping[str, Tensor], backbone: nn.Module) -> str:
    """The format of a file's weights.

    Args:
        state: Tensors by the file's keys, without or with one of ``PREFIXES``.
        backbone: The backbone that they are meant for.

    Returns:
        One of ``FORMATS``.

    Raises:
        UserError: No format fits, or the format's weights are of another architecture than the backbone.
    """
    prefix = find_prefix(state)
    name = format_of({key.removeprefix(prefix): None for key in state if key.startswith(prefix)})
    if name is None:
        raise UserError(
            f"not in a known format ({', '.join(FORMATS)}); its first keys: {_first(state)}. "
            "Where the weights lie below a prefix, give it as 'prefix' in init_cfg."
        )
    layout = layout_of(backbone)
    if FORMATS[name] != FORMATS[layout]:
        raise UserError(
            f"holds the weights of a {FORMATS[name]} ({name}), and {type(backbone).__name__} is a {FORMATS[layout]}: "
            "give a file of the backbone's architecture."
        )
    if name.startswith("openmmlab") and layout.startswith("timm"):
        raise UserError(
            f"holds weights by OpenMMLab's names ({name}), and {type(backbone).__name__} has timm's: "
            f"use mmpretrain's {FORMATS[name]}, or a file by timm's names."
        )
    return name


def find_prefix(state: Mapping[str, Tensor]) -> str:
    """The first of ``PREFIXES`` below which a format is recognised, empty where there is none."""
    for prefix in PREFIXES:
        if format_of({key.removeprefix(prefix): None for key in state if key.startswith(prefix)}):
            return prefix
    return ""


def convert(state: Mapping[str, Tensor], name: str, backbone: nn.Module) -> Converted:
    """A file's weights by the backbone's names, before any resizing.

    Args:
        state: Tensors by the file's keys, without prefix.
        name: Their format, by :func:`recognise`.
        backbone: The backbone that they are meant for.

    Returns:
        The renamed weights.
    """
    layout, keys = layout_of(backbone), backbone.state_dict().keys()
    weights = google_npz.to_timm(state) if name == google_npz.NAME else Converted.of(state)
    if name == official_swin.OFFICIAL:
        weights = official_swin.official_to_timm(weights)
    if name.startswith("openmmlab"):
        return openmmlab.to_mmpretrain(weights, keys)
    family = timm_vit if FORMATS[name] == "ViT" else official_swin
    return (family.to_timm if layout.startswith("timm") else family.to_mmpretrain)(weights, keys)


def _first(names: Mapping[str, object], count: int = 4) -> str:
    return ", ".join(list(names)[:count])
