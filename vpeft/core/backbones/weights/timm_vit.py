"""timm's ``VisionTransformer`` state dicts; those of DeiT, MAE, DINO and DINOv2 have the same names."""

from __future__ import annotations

from collections.abc import Collection

from vpeft.core.backbones.weights.converted import DECODER, HEAD, Converted

NAME = "timm_vit"
ANCHOR = r"blocks\.0\.norm1\.weight"

_NAMES = {
    r"cls_token|pos_embed": r"\g<0>",
    r"patch_embed\.proj\.(weight|bias)": r"patch_embed.projection.\1",
    r"norm_pre\.(weight|bias)": r"pre_norm.\1",
    r"norm\.(weight|bias)": r"ln1.\1",
    r"fc_norm\.(weight|bias)": r"ln2.\1",
    r"blocks\.(\d+)\.norm([12])\.(weight|bias)": r"layers.\1.ln\2.\3",
    r"blocks\.(\d+)\.attn\.(qkv|proj)\.(weight|bias)": r"layers.\1.attn.\2.\3",
    r"blocks\.(\d+)\.ls1\.gamma": r"layers.\1.attn.gamma1.weight",
    r"blocks\.(\d+)\.mlp\.fc1\.(weight|bias)": r"layers.\1.ffn.layers.0.0.\2",
    r"blocks\.(\d+)\.mlp\.fc2\.(weight|bias)": r"layers.\1.ffn.layers.1.\2",
    r"blocks\.(\d+)\.ls2\.gamma": r"layers.\1.ffn.gamma2.weight",
}
_LEFT_OUT = {
    r"(head|head_dist|pre_logits)\..+": HEAD,
    r"mask_token|decoder_.+": DECODER,
}
#: What a backbone may do without, by its options: its name here, in mmpretrain, and the reason.
_OPTIONAL = (
    ("norm", "ln1", "final norm, which the backbone does not have"),
    ("fc_norm", "ln2", "norm of the pooled tokens, which the backbone does not have"),
    ("cls_token", "cls_token", "class token, which the backbone does not have"),
)


def to_mmpretrain(weights: Converted, backbone_keys: Collection[str]) -> Converted:
    """Weights by the names of mmpretrain's ``VisionTransformer``.

    Args:
        weights: By timm's names.
        backbone_keys: Keys of the backbone; a norm or class token that it does not use is left out.

    Returns:
        The renamed weights.
    """
    return weights.renamed(_NAMES, _left_out(backbone_keys, 1))


def to_timm(weights: Converted, backbone_keys: Collection[str]) -> Converted:
    """As :func:`to_mmpretrain`, for timm's own ``VisionTransformer``; its head is left alone."""
    return weights.renamed({r".+": r"\g<0>"}, _left_out(backbone_keys, 0))


def _left_out(backbone_keys: Collection[str], column: int) -> dict[str, str]:
    used = {key.split(".")[0] for key in backbone_keys}
    unused = {rf"{row[0]}(\.weight|\.bias)?": row[2] for row in _OPTIONAL if row[column] not in used}
    return {**_LEFT_OUT, **unused}
