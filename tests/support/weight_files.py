"""Random models and their weights in the formats of other projects, written here by plain inverses."""

from __future__ import annotations

import numpy as np
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from timm.models.swin_transformer import SwinTransformer as TimmSwin
from timm.models.vision_transformer import VisionTransformer as TimmViT

DIM, DEPTH, HEADS = 32, 3, 4


def randomise(model, seed=0):
    """Every parameter away from its start, norms and biases included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.3)
    return evaluating(model)


def evaluating(model):
    """mmpretrain's own ``eval`` returns nothing."""
    model.eval()
    return model


def timm_vit(seed=0, **options):
    settings = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": DIM,
        "depth": DEPTH,
        "num_heads": HEADS,
        "mlp_ratio": 2,
        "num_classes": 5,
    }
    return randomise(TimmViT(**{**settings, **options}), seed)


def mm_vit(**options):
    arch = {"embed_dims": DIM, "num_layers": DEPTH, "num_heads": HEADS, "feedforward_channels": 2 * DIM}
    settings = {"arch": arch, "img_size": 32, "patch_size": 8, "out_type": "raw"}
    return evaluating(VisionTransformer(**{**settings, **options}))


def timm_swin(seed=0, **options):
    settings = {
        "img_size": 64,
        "patch_size": 4,
        "window_size": 4,
        "embed_dim": 16,
        "depths": (2, 2, 1),
        "num_heads": (1, 2, 4),
        "num_classes": 5,
    }
    return randomise(TimmSwin(**{**settings, **options}), seed)


def mm_swin(**options):
    arch = {"embed_dims": 16, "depths": [2, 2, 1], "num_heads": [1, 2, 4]}
    settings = {"arch": arch, "img_size": 64, "window_size": 4, "out_indices": (2,), "drop_path_rate": 0.0}
    return evaluating(SwinTransformer(**{**settings, **options}))


def save_npz(model, path, pre_logits=True):
    """A timm ViT as Google's training code writes it."""
    arrays = {}
    dim, heads = model.embed_dim, model.blocks[0].attn.num_heads
    width = dim // heads

    def numpy(tensor):
        return tensor.detach().numpy().copy()

    def norm(name, module):
        arrays[f"{name}/scale"], arrays[f"{name}/bias"] = numpy(module.weight), numpy(module.bias)

    def dense(name, module):
        arrays[f"{name}/kernel"], arrays[f"{name}/bias"] = numpy(module.weight).transpose(), numpy(module.bias)

    arrays["cls"] = numpy(model.cls_token)
    arrays["embedding/kernel"] = np.einsum("oihw->hwio", numpy(model.patch_embed.proj.weight))
    arrays["embedding/bias"] = numpy(model.patch_embed.proj.bias)
    arrays["Transformer/posembed_input/pos_embedding"] = numpy(model.pos_embed)
    for i, block in enumerate(model.blocks):
        at = f"Transformer/encoderblock_{i}"
        norm(f"{at}/LayerNorm_0", block.norm1)
        norm(f"{at}/LayerNorm_2", block.norm2)
        for j, name in enumerate(("query", "key", "value")):
            kernel = np.zeros((dim, heads, width), np.float32)
            bias = np.zeros((heads, width), np.float32)
            for head in range(heads):
                rows = slice(j * dim + head * width, j * dim + (head + 1) * width)
                kernel[:, head] = numpy(block.attn.qkv.weight)[rows].T
                bias[head] = numpy(block.attn.qkv.bias)[rows]
            arrays[f"{at}/MultiHeadDotProductAttention_1/{name}/kernel"] = kernel
            arrays[f"{at}/MultiHeadDotProductAttention_1/{name}/bias"] = bias
        out = np.zeros((heads, width, dim), np.float32)
        for head in range(heads):
            out[head] = numpy(block.attn.proj.weight)[:, head * width : (head + 1) * width].T
        arrays[f"{at}/MultiHeadDotProductAttention_1/out/kernel"] = out
        arrays[f"{at}/MultiHeadDotProductAttention_1/out/bias"] = numpy(block.attn.proj.bias)
        dense(f"{at}/MlpBlock_3/Dense_0", block.mlp.fc1)
        dense(f"{at}/MlpBlock_3/Dense_1", block.mlp.fc2)
    norm("Transformer/encoder_norm", model.norm)
    if model.num_classes:
        dense("head", model.head)
    if pre_logits:
        arrays["pre_logits/kernel"] = np.ones((dim, dim), np.float32)
        arrays["pre_logits/bias"] = np.ones(dim, np.float32)
    np.savez(path, **arrays)
    return str(path)


def official_swin_state(model, window=4):
    """A timm Swin by the names of Microsoft's code, with its buffers; both merge neighbours in the same order."""
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if "downsample" in parts:
            parts[1] = str(int(parts[1]) - 1)
        state[".".join(parts).replace("head.fc.", "head.")] = value
    for stage, layer in enumerate(model.layers):
        for i in range(len(layer.blocks)):
            at = f"layers.{stage}.blocks.{i}"
            state[f"{at}.attn.relative_position_index"] = torch.zeros(window**2, window**2, dtype=torch.long)
            if i % 2:
                state[f"{at}.attn_mask"] = torch.zeros(4, window**2, window**2)
    return state


def save_official_swin(model, path, **more):
    torch.save({"model": {**official_swin_state(model), **more}}, path)
    return str(path)


def save_torch(state, path):
    torch.save(state, path)
    return str(path)


def image(size=32, seed=1):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def largest_difference(a, b):
    return (a - b).abs().max().item()


def timm_map(model, x):
    """A timm Swin's normalised last map, ``(B, C, H, W)``."""
    return model.forward_features(x).permute(0, 3, 1, 2)


#: Options of a small model of timm.
SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2, "num_classes": 0}


def meta_dinov2(model):
    """A timm DINOv2 as Meta writes it."""
    state = {key.replace("reg_token", "register_tokens"): value for key, value in model.state_dict().items()}
    if "register_tokens" in state:
        # timm has put the class token's position into the class token.
        tables = [state["cls_token"] * 0.25, state["pos_embed"]]
        state |= {"pos_embed": torch.cat(tables, dim=1), "cls_token": state["cls_token"] * 0.75}
    width = state["cls_token"].shape[-1]
    return {**state, "mask_token": torch.randn(1, width)}


def meta_dinov3(model):
    """A timm DINOv3 as Meta writes it."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("reg_token", "storage_tokens").replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
        state[key] = value
    width = state["cls_token"].shape[-1]
    return {**state, "mask_token": torch.randn(1, width), "rope_embed.periods": torch.randn(16)}


def meta_sam(model):
    """A timm SAM encoder as ``segment_anything`` writes it, within the whole model."""
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("mlp.fc", "mlp.lin")
        state[f"image_encoder.{key}"] = value
    return {
        **state,
        "mask_decoder.iou_token.weight": torch.ones(1, 4),
        "prompt_encoder.no_mask_embed.weight": torch.ones(2),
    }
