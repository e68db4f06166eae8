"""Checkpoints of OpenMMLab's own ViT and Swin, whole models (keys below ``backbone.``) or backbones alone."""

from __future__ import annotations

import re
from collections.abc import Collection

from vpeft.core.backbones.weights.converted import BUFFER, Converted

VIT = "openmmlab_vit"
SWIN = "openmmlab_swin"
VIT_ANCHOR = r"layers\.0\.ln1\.weight"
SWIN_ANCHOR = r"stages\.0\.blocks\.0\.norm1\.weight"

_LEFT_OUT = {
    r".+\.(attn_mask|relative_position_index)": BUFFER,
    r"(.+\.)?peft\..+": "adapter parameter; load it with vpeft.load_adapter",
}


def to_mmpretrain(weights: Converted, backbone_keys: Collection[str]) -> Converted:
    """Weights for the same backbone.

    Args:
        weights: By the backbone's names.
        backbone_keys: Keys of the backbone; an output norm that it does not use is left out.

    Returns:
        The weights without buffers and adapters; the final ``norm`` of old Swin files belongs to the last stage.
    """
    last = max((int(found[1]) for key in weights.state if (found := re.match(r"stages\.(\d+)\.", key))), default=0)
    reasons = dict(_LEFT_OUT)
    for name in weights.state:
        if re.fullmatch(r"(norm\d+|ln[12])\.(weight|bias)", name) and name not in backbone_keys:
            reasons[re.escape(name)] = "output norm that the backbone does not have"
    return weights.renamed({r"norm\.(weight|bias)": rf"norm{last}.\1", r".+": r"\g<0>"}, reasons)
