"""Google's ViT weights (``ViT-B_16.npz`` and its like): arrays by Flax names, kernels with the input axes first."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from vpeft.core.backbones.weights.converted import HEAD, Converted, join_parts

_OUTSIDE = {
    "cls": "cls_token",
    "embedding/kernel": "patch_embed.proj.weight",
    "embedding/bias": "patch_embed.proj.bias",
    "Transformer/posembed_input/pos_embedding": "pos_embed",
    "Transformer/encoder_norm/scale": "norm.weight",
    "Transformer/encoder_norm/bias": "norm.bias",
}
_INSIDE = {
    "LayerNorm_0/scale": "norm1.weight",
    "LayerNorm_0/bias": "norm1.bias",
    "MultiHeadDotProductAttention_1/out/kernel": "attn.proj.weight",
    "MultiHeadDotProductAttention_1/out/bias": "attn.proj.bias",
    "LayerNorm_2/scale": "norm2.weight",
    "LayerNorm_2/bias": "norm2.bias",
    "MlpBlock_3/Dense_0/kernel": "mlp.fc1.weight",
    "MlpBlock_3/Dense_0/bias": "mlp.fc1.bias",
    "MlpBlock_3/Dense_1/kernel": "mlp.fc2.weight",
    "MlpBlock_3/Dense_1/bias": "mlp.fc2.bias",
}
_BLOCK = re.compile(r"Transformer/encoderblock_(\d+)/(.+)")
_QKV = re.compile(r"(.+/MultiHeadDotProductAttention_1)/(?:query|key|value)/(kernel|bias)")


def npz_to_timm(state: Mapping[str, Tensor]) -> Converted:
    """Weights by timm's names and with torch's axes.

    Args:
        state: The file's arrays. With D channels, h heads: ``query/kernel`` (D, h, D/h), ``out/kernel`` (h, D/h, D),
            ``Dense_*/kernel`` (in, out), ``embedding/kernel`` (height, width, in, out).

    Returns:
        The renamed weights; query, key and value are joined into one ``qkv``, and the classifier is left out.
    """
    weights = Converted()
    for key, array in state.items():
        block = _BLOCK.fullmatch(key)
        name = _INSIDE.get(block[2]) if block else _OUTSIDE.get(key)
        three = _query_key_value(key)
        if key.split("/")[0] in ("head", "pre_logits"):
            weights.left_out[key] = HEAD
        elif name is not None:
            weights.put(f"blocks.{block[1]}.{name}" if block else name, _torch_axes(key, array), key)
        elif not three or any(part not in state for part in three):
            weights.unknown.append(key)
        elif key == three[0]:
            kind = "weight" if key.endswith("kernel") else "bias"
            whole = join_parts({part: _join_heads(state[part]) for part in three})
            weights.put(f"blocks.{block[1]}.attn.qkv.{kind}", whole, " + ".join(three))
    return weights


def _query_key_value(key: str) -> list[str]:
    """The names of the three parts that ``key`` is one of; empty where it is none."""
    found = _QKV.fullmatch(key)
    return [f"{found[1]}/{part}/{found[2]}" for part in ("query", "key", "value")] if found else []


def _torch_axes(key: str, array: Tensor) -> Tensor:
    if not key.endswith("kernel"):
        return array
    if key == "embedding/kernel":
        return array.permute(3, 2, 0, 1) if array.dim() == 4 else array
    return array.flatten(0, -2).T if array.dim() > 1 else array


def _join_heads(array: Tensor) -> Tensor:
    """``(D, h, D/h)`` becomes ``(D, D)`` with the output first; a bias ``(h, D/h)`` becomes ``(D,)``."""
    return array.flatten(1).T if array.dim() == 3 else array.flatten()
