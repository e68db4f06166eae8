"""Names of ViT weights: timm's in the middle, OpenMMLab's three ViTs around them.

DeiT, MAE, DINO and DINOv2 files have timm's names; VideoMAE's own too, with a kernel in time and with the biases of
queries and values apart.
"""

from __future__ import annotations

from vpeft.core.backbones.weights.converted import Converted, key_patterns

#: timm's names, left, and those of mmpretrain's ``VisionTransformer``.
MMPRETRAIN = {
    "cls_token": "cls_token",
    "pos_embed": "pos_embed",
    "patch_embed.proj.*": "patch_embed.projection.*",
    "norm_pre.*": "pre_norm.*",
    "norm.*": "ln1.*",
    "fc_norm.*": "ln2.*",
    "blocks.#.norm1.*": "layers.#.ln1.*",
    "blocks.#.norm2.*": "layers.#.ln2.*",
    "blocks.#.attn.qkv.*": "layers.#.attn.qkv.*",
    "blocks.#.attn.proj.*": "layers.#.attn.proj.*",
    "blocks.#.ls1.gamma": "layers.#.attn.gamma1.weight",
    "blocks.#.ls2.gamma": "layers.#.ffn.gamma2.weight",
    "blocks.#.mlp.fc1.*": "layers.#.ffn.layers.0.0.*",
    "blocks.#.mlp.fc2.*": "layers.#.ffn.layers.1.*",
}
#: The same for mmsegmentation's, which keeps the weights of torch's attention.
MMSEG = {
    **{old: new for old, new in MMPRETRAIN.items() if ".ls" not in old and ".attn." not in old},
    "norm_pre.*": "ln_pre.*",
    "blocks.#.attn.qkv.*": "layers.#.attn.attn.in_proj_*",
    "blocks.#.attn.proj.*": "layers.#.attn.attn.out_proj.*",
}
#: The same for mmaction2's, the encoder of VideoMAE.
MMACTION = {
    "pos_embed": "pos_embed",
    "cls_token": "cls_token",
    "patch_embed.proj.*": "patch_embed.projection.*",
    "norm.*": "norm.*",
    "fc_norm.*": "fc_norm.*",
    "blocks.#.norm1.*": "blocks.#.norm1.*",
    "blocks.#.norm2.*": "blocks.#.norm2.*",
    "blocks.#.attn.qkv.weight": "blocks.#.attn.qkv.weight",
    "blocks.#.attn.q_bias": "blocks.#.attn.q_bias",
    "blocks.#.attn.v_bias": "blocks.#.attn.v_bias",
    "blocks.#.attn.proj.*": "blocks.#.attn.proj.*",
    "blocks.#.ls1.gamma": "blocks.#.gamma_1",
    "blocks.#.gamma_1": "blocks.#.gamma_1",
    "blocks.#.ls2.gamma": "blocks.#.gamma_2",
    "blocks.#.gamma_2": "blocks.#.gamma_2",
    "blocks.#.mlp.fc1.*": "blocks.#.mlp.layers.0.0.*",
    "blocks.#.mlp.fc2.*": "blocks.#.mlp.layers.1.*",
}
KEY_BIAS = "bias of the keys, which cancels in the softmax"


def from_mmpretrain(weights: Converted) -> Converted:
    """mmpretrain's names to timm's."""
    return weights.renamed(key_patterns(MMPRETRAIN, back=True))


def to_mmpretrain(weights: Converted) -> Converted:
    """timm's names to mmpretrain's."""
    return weights.renamed(key_patterns(MMPRETRAIN))


def from_mmseg(weights: Converted) -> Converted:
    """mmsegmentation's names to timm's."""
    return weights.renamed(key_patterns(MMSEG, back=True))


def to_mmseg(weights: Converted) -> Converted:
    """timm's names to mmsegmentation's."""
    return weights.renamed(key_patterns(MMSEG))


def to_mmaction(weights: Converted) -> Converted:
    """timm's or VideoMAE's names to mmaction2's, which has biases of queries and values only."""
    parted = Converted(left_out=dict(weights.left_out), unknown=list(weights.unknown))
    for name, tensor in weights.state.items():
        source = weights.source[name]
        if not name.endswith(".attn.qkv.bias"):
            parted.put(name, tensor, source)
            continue
        queries, _, values = tensor.chunk(3)
        at = name.removesuffix("qkv.bias")
        parted.put(f"{at}q_bias", queries, source)
        parted.put(f"{at}v_bias", values, source)
        parted.left_out[f"{source} (middle third)"] = KEY_BIAS
    return parted.renamed(key_patterns(MMACTION))
