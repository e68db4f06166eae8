"""Names of ViT weights: timm's in the middle, OpenMMLab's three ViTs around them.

DeiT, MAE, DINO and DINOv2 files have timm's names; VideoMAE's own too, with a kernel in time and with the biases of
queries and values apart.
"""

from __future__ import annotations

from vpeft.core.backbones.weights.converted import HEAD, Converted, join_parts, key_patterns

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
#: The same for the encoders of ViT, DeiT and DINOv2 in transformers, with queries, keys and values still apart.
TRANSFORMERS = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "reg_token": "embeddings.register_tokens",
    "patch_embed.proj.*": "embeddings.patch_embeddings.projection.*",
    "norm.*": "layernorm.*",
    "blocks.#.attn.query.*": "encoder.layer.#.attention.attention.query.*",
    "blocks.#.attn.key.*": "encoder.layer.#.attention.attention.key.*",
    "blocks.#.attn.value.*": "encoder.layer.#.attention.attention.value.*",
    "blocks.#.attn.proj.*": "encoder.layer.#.attention.output.dense.*",
    "blocks.#.norm1.*": "encoder.layer.#.norm1.*",
    "blocks.#.norm2.*": "encoder.layer.#.norm2.*",
    "blocks.#.ls1.gamma": "encoder.layer.#.layer_scale1.lambda1",
    "blocks.#.ls2.gamma": "encoder.layer.#.layer_scale2.lambda1",
    "blocks.#.mlp.fc1.*": "encoder.layer.#.mlp.fc1.*",
    "blocks.#.mlp.fc2.*": "encoder.layer.#.mlp.fc2.*",
}
#: Names of ViT and DeiT where DINOv2 has others.
TRANSFORMERS_VIT = {
    "encoder.layer.#.norm1.*": "encoder.layer.#.layernorm_before.*",
    "encoder.layer.#.norm2.*": "encoder.layer.#.layernorm_after.*",
    "encoder.layer.#.mlp.fc1.*": "encoder.layer.#.intermediate.dense.*",
    "encoder.layer.#.mlp.fc2.*": "encoder.layer.#.output.dense.*",
}
_APART = ("query", "key", "value")
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


def from_transformers(weights: Converted) -> Converted:
    """The names of transformers to timm's, with queries, keys and values joined."""
    weights = weights.renamed(key_patterns(TRANSFORMERS_VIT, back=True), strict=False)
    apart = weights.without({r"(classifier|pooler)\..+": HEAD}).renamed(key_patterns(TRANSFORMERS, back=True))
    weights = Converted(left_out=apart.left_out, unknown=apart.unknown)
    for name, tensor in apart.state.items():
        before, part, kind = [*name.rsplit(".", 2), "", ""][:3]
        if part not in _APART:
            weights.put(name, tensor, apart.source[name])
        elif part == _APART[0]:
            names = [f"{before}.{other}.{kind}" for other in _APART]
            if not all(other in apart.state for other in names):
                weights.unknown.append(apart.source[name])
                continue
            parts = {apart.source[other]: apart.state[other] for other in names}
            weights.put(f"{before}.qkv.{kind}", join_parts(parts), "+".join(parts))
    return weights


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
