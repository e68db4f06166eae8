"""Which format a file is in, which layout a backbone has, and the way from one to the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from vpeft.core.backbones.weights.converted import BUFFER, DECODER, HEAD, Converted
from vpeft.core.backbones.weights.layouts import google_npz, swin, vit
from vpeft.errors import UserError

#: Prefixes that whole models, data-parallel wrappers and autoencoders put before a backbone's keys; in this order.
PREFIXES = ("", "backbone.", "module.", "module.backbone.", "encoder.", "module.encoder.", "vit.", "deit.", "dinov2.")
#: Written before the architecture of a format whose weights are of clips.
VIDEO = "video "

_BLOCK = r"layers\.0\.blocks\.0\.norm1\.weight"
#: Norms that files may lack: of the pooled tokens, and of a Swin's stages but the last.
_POOLED, _NUMBERED = r"fc_norm\..+", r"norm\d+\..+"
#: What is never loaded into a backbone.
LEFT_OUT = {
    r"(head|head_dist|pre_logits)\..+": HEAD,
    r"(.+\.)?mask_token|decoder[_.].+": DECODER,
    r".+\.(attn_mask|relative_position_index|relative_coords_table)": BUFFER,
    r"(.+\.)?peft\..+": "adapter parameter; load it with vpeft.load_adapter",
}
#: What a backbone may do without, by its options.
_OPTIONAL = {
    r"cls_token": "class token, which the backbone does not have",
    r"(norm\d*|fc_norm|ln[12])\.(weight|bias)": "output norm that the backbone does not have",
}


def _same(weights: Converted) -> Converted:
    return weights


class NoWay(UserError):
    """A file and a backbone have nothing in common in some way of reading."""


_HEADS = ("head", "head_drop")


@dataclass(frozen=True)
class Format:
    """A set of names.

    Attributes:
        holds: The architecture: ``ViT``, ``Swin``, or either with ``video`` before it.
        anchor: Pattern of a key that such weights have.
        to_hub: Renames to timm's names (ViT) or Microsoft's (Swin).
        from_hub: Renames back; None where no backbone keeps its weights by these names.
        kept: Pattern of a backbone's keys that files may lack.
        heads: Modules of a backbone of these names that classify.
    """

    holds: str
    anchor: str
    to_hub: Callable[[Converted], Converted] = _same
    from_hub: Callable[[Converted], Converted] | None = None
    kept: str = r"(?!)"
    heads: tuple[str, ...] = ()


#: Every format by its name. The first whose anchor is in a file is meant, but for what `format_of` tells further.
FORMATS = {
    "google_npz": Format("ViT", r"Transformer/encoderblock_0/.+"),
    "mmaction_vit": Format(
        VIDEO + "ViT", r"blocks\.0\.mlp\.layers\.0\.0\.weight", from_hub=vit.to_mmaction, kept=_POOLED
    ),
    "timm_vit": Format("ViT", r"blocks\.0\.norm1\.weight", from_hub=_same, kept=_POOLED, heads=_HEADS),
    "videomae": Format(VIDEO + "ViT", r"blocks\.0\.norm1\.weight"),
    "transformers_vit": Format("ViT", r"encoder\.layer\.0\.attention\.attention\.query\.weight", vit.from_transformers),
    "mmseg_vit": Format("ViT", r"layers\.0\.attn\.attn\.in_proj_weight", vit.from_mmseg, vit.to_mmseg),
    "openmmlab_vit": Format("ViT", r"layers\.0\.ln1\.weight", vit.from_mmpretrain, vit.to_mmpretrain, r"ln2\..+"),
    "openmmlab_swin": Format(
        "Swin", r"stages\.0\.blocks\.0\.norm1\.weight", swin.from_openmmlab, swin.to_openmmlab, _NUMBERED
    ),
    "official_swin": Format("Swin", _BLOCK),
    "timm_swin": Format("Swin", _BLOCK, swin.from_timm, swin.to_timm, _POOLED, _HEADS),
    "video_swin": Format(VIDEO + "Swin", _BLOCK, from_hub=_same, kept=_NUMBERED),
}


def format_of(state: Mapping[str, Tensor]) -> str | None:
    """The format whose distinguishing key is in ``state`` (without prefix), None where there is none."""
    fits = (name for name, kind in FORMATS.items() if any(re.fullmatch(kind.anchor, key) for key in state))
    name = next(fits, None)
    is_clip = getattr(state.get("patch_embed.proj.weight"), "ndim", 4) == 5
    if name == "timm_vit" and is_clip:
        return "videomae"
    if name == "official_swin" and is_clip:
        return "video_swin"
    # Official files keep a merging at the end of a stage (0 has one), timm at the start of the next (0 has none).
    if name == "official_swin" and not any(key.startswith("layers.0.downsample.") for key in state):
        return "timm_swin"
    return name


def has_layout(backbone: nn.Module) -> bool:
    """Whether a backbone keeps its weights by the names of one of ``FORMATS``."""
    name = format_of(backbone.state_dict())
    return name is not None and FORMATS[name].from_hub is not None


def layout_of(backbone: nn.Module) -> str:
    """The format in which a backbone keeps its own weights, told by its keys and not by its class.

    Args:
        backbone: A ViT or Swin of OpenMMLab or timm, plain or adapted.

    Returns:
        One of ``FORMATS``.

    Raises:
        NoWay: It is none of these.
    """
    layout = format_of(backbone.state_dict())
    if layout is None or FORMATS[layout].from_hub is None:
        raise NoWay(
            f"weights can be loaded into ViT and Swin backbones of OpenMMLab and timm, and {type(backbone).__name__} "
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
        UserError: No format fits (:class:`NoWay`), or the format's weights are of another architecture than the
            backbone.
    """
    name = format_of(below(state, find_prefix(state)))
    if name is None:
        raise NoWay(
            f"not in a known format ({', '.join(FORMATS)}); its first keys: {', '.join(list(state)[:4])}. "
            "Where the weights lie below a prefix, give it as 'prefix' in init_cfg."
        )
    holds, own = FORMATS[name].holds, FORMATS[layout_of(backbone)].holds
    if holds not in (own, own.removeprefix(VIDEO)):
        raise UserError(
            f"holds the weights of a {holds} ({name}), and {type(backbone).__name__} is a {own}: "
            "give a file of the backbone's architecture."
        )
    return name


def find_prefix(state: Mapping[str, Tensor]) -> str:
    """The first of ``PREFIXES`` below which a format is recognised, empty where there is none."""
    return next((prefix for prefix in PREFIXES if format_of(below(state, prefix))), "")


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What lies below a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def reason_outside(prefix: str) -> str:
    """Why what does not lie below a prefix is left out."""
    return DECODER if prefix.endswith("encoder.") else f"outside {prefix!r}"


def convert(state: Mapping[str, Tensor], name: str, backbone: nn.Module) -> Converted:
    """A file's weights by the backbone's names, before anything changes its size.

    Args:
        state: Tensors by the file's keys, without prefix.
        name: Their format, by :func:`recognise`.
        backbone: The backbone that they are meant for.

    Returns:
        The renamed weights.

    Raises:
        UserError: Tensors that belong together differ in shape.
    """
    try:
        return _convert(state, name, backbone)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        said = str(error).splitlines()[0]
        raise UserError(f"read as {name}, its tensors do not fit together ({said}): fetch the file again.") from error


def _convert(state: Mapping[str, Tensor], name: str, backbone: nn.Module) -> Converted:
    layout = layout_of(backbone)
    weights = google_npz.npz_to_timm(state) if name == "google_npz" else Converted.of(state)
    weights = weights.without(LEFT_OUT)
    if name != layout:
        weights = FORMATS[layout].from_hub(FORMATS[name].to_hub(weights))
    if FORMATS[layout].kept == _NUMBERED:
        weights = swin.number_norm(weights)
    own, unused = backbone.state_dict(), {}
    for key, tensor in state.items():
        # A head of the same shape is loaded; another one is trained anew.
        if weights.left_out.get(key) == HEAD and key in own and own[key].shape == tensor.shape:
            del weights.left_out[key]
            weights.put(key, tensor, key)
    for key in weights.state.keys() - own.keys():
        unused |= {re.escape(key): why for pattern, why in _OPTIONAL.items() if re.fullmatch(pattern, key)}
    return weights.without(unused)
