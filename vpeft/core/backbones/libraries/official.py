"""Names of transformers for the files that the authors of MAE, DINO, DINOv2, DINOv3 and SAM publish."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_QKV = {"dinov3_vit": ("q", "k", "v")}
_BLOCK = r"blocks\.(\d+)\."
_EMBEDDINGS = {
    r"cls_token": "embeddings.cls_token",
    r"mask_token": "embeddings.mask_token",
    r"pos_embed": "embeddings.position_embeddings",
    r"patch_embed\.proj\.(.+)": r"embeddings.patch_embeddings.projection.\1",
    r"norm\.(.+)": r"layernorm.\1",
}
_VIT = {
    **_EMBEDDINGS,
    _BLOCK + r"norm1\.(.+)": r"encoder.layer.\1.layernorm_before.\2",
    _BLOCK + r"attn\.qkv\.(.+)": r"encoder.layer.\1.attention.attention.{}.\2",
    _BLOCK + r"attn\.proj\.(.+)": r"encoder.layer.\1.attention.output.dense.\2",
    _BLOCK + r"norm2\.(.+)": r"encoder.layer.\1.layernorm_after.\2",
    _BLOCK + r"mlp\.fc1\.(.+)": r"encoder.layer.\1.intermediate.dense.\2",
    _BLOCK + r"mlp\.fc2\.(.+)": r"encoder.layer.\1.output.dense.\2",
}
_DINOV2 = {
    **_EMBEDDINGS,
    r"register_tokens": "embeddings.register_tokens",
    _BLOCK + r"(norm[12])\.(.+)": r"encoder.layer.\1.\2.\3",
    _BLOCK + r"attn\.qkv\.(.+)": r"encoder.layer.\1.attention.attention.{}.\2",
    _BLOCK + r"attn\.proj\.(.+)": r"encoder.layer.\1.attention.output.dense.\2",
    _BLOCK + r"ls([12])\.gamma": r"encoder.layer.\1.layer_scale\2.lambda1",
    _BLOCK + r"mlp\.(fc[12])\.(.+)": r"encoder.layer.\1.mlp.\2.\3",
    _BLOCK + r"mlp\.w12\.(.+)": r"encoder.layer.\1.mlp.weights_in.\2",
    _BLOCK + r"mlp\.w3\.(.+)": r"encoder.layer.\1.mlp.weights_out.\2",
}
_DINOV3 = {
    r"(cls|mask)_token": r"embeddings.\1_token",
    r"storage_tokens": "embeddings.register_tokens",
    r"patch_embed\.proj\.(.+)": r"embeddings.patch_embeddings.\1",
    _BLOCK + r"(norm[12])\.(.+)": r"layer.\1.\2.\3",
    _BLOCK + r"attn\.qkv\.(weight|bias)": r"layer.\1.attention.{}_proj.\2",
    _BLOCK + r"attn\.proj\.(.+)": r"layer.\1.attention.o_proj.\2",
    _BLOCK + r"ls([12])\.gamma": r"layer.\1.layer_scale\2.lambda1",
    _BLOCK + r"mlp\.w1\.(.+)": r"layer.\1.mlp.gate_proj.\2",
    _BLOCK + r"mlp\.(?:fc1|w2)\.(.+)": r"layer.\1.mlp.up_proj.\2",
    _BLOCK + r"mlp\.(?:fc2|w3)\.(.+)": r"layer.\1.mlp.down_proj.\2",
}
_SAM = {
    r"image_encoder\.pos_embed": "vision_encoder.pos_embed",
    r"image_encoder\.patch_embed\.proj\.(.+)": r"vision_encoder.patch_embed.projection.\1",
    r"image_encoder\.blocks\.(\d+)\.norm([12])\.(.+)": r"vision_encoder.layers.\1.layer_norm\2.\3",
    r"image_encoder\.blocks\.(\d+)\.(attn|mlp)\.(.+)": r"vision_encoder.layers.\1.\2.\3",
    r"image_encoder\.neck\.0\.(.+)": r"vision_encoder.neck.conv1.\1",
    r"image_encoder\.neck\.1\.(.+)": r"vision_encoder.neck.layer_norm1.\1",
    r"image_encoder\.neck\.2\.(.+)": r"vision_encoder.neck.conv2.\1",
    r"image_encoder\.neck\.3\.(.+)": r"vision_encoder.neck.layer_norm2.\1",
}
#: By the type of a model of transformers: patterns of the files' names, with the model's; ``{}`` is one of q, k, v.
NAMES = {
    **dict.fromkeys(("vit", "vit_mae"), _VIT),
    **dict.fromkeys(("dinov2", "dinov2_with_registers"), _DINOV2),
    "dinov3_vit": _DINOV3,
    "sam_vision_model": _SAM,
}
#: What such a file holds beside weights, or of other parts of a whole model.
_BESIDE = r"rope_embed\.periods|.+\.bias_mask|(prompt_encoder|mask_decoder)\..+|(local_)?cls_norm\..+"


def renamed(state: Mapping[str, Tensor], kind: str, prefix: str, own: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A file's tensors under the names of a model; None where the names are not known, or the file has none of them.

    Args:
        state: Tensors by the file's names.
        kind: The type of the model.
        prefix: What stands before the names of its base.
        own: The model's own tensors. Names of the file that are not known are left as they are.
    """
    found: dict[str, Tensor] = {}
    known = False
    for key, tensor in state.items():
        fits = (one.expand(to) for pattern, to in NAMES.get(kind, {}).items() if (one := re.fullmatch(pattern, key)))
        name = next(fits, None)
        if name is None:
            if not re.fullmatch(_BESIDE, key):
                found[key] = tensor
            continue
        known = True
        if "{}" in name:
            for one, part in zip(_QKV.get(kind, ("query", "key", "value")), tensor.chunk(3), strict=True):
                if name.format(one).endswith(".k_proj.bias") and prefix + name.format(one) not in own:
                    continue  # DINOv3 masks it
                found[prefix + name.format(one)] = part
            continue
        name, like = prefix + name, own.get(prefix + name)
        if name.endswith("mask_token"):
            if like is None:
                continue
            tensor = tensor.reshape(like.shape) if tensor.numel() == like.numel() else tensor
        found[name] = tensor
    return found if known else None
