"""Tiny variants of every host, and how to read all their output tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import mmaction.models
import mmdet.models
import mmseg.models
import timm.models.swin_transformer as timm_swin
import timm.models.vision_transformer as timm_vit
import torch
from mmpretrain.models import SwinTransformer, VisionTransformer
from torch import Tensor, nn

from vpeft.core.adaptation.find import get_adaptation

ARCH = {"embed_dims": 64, "num_layers": 3, "num_heads": 4, "feedforward_channels": 128}
SWIN_ARCH = {"embed_dims": 64, "depths": [2, 2], "num_heads": [2, 4]}


def mm_vit(**kwargs) -> nn.Module:
    options = {"arch": ARCH, "img_size": 32, "patch_size": 8, "out_type": "raw", "drop_path_rate": 0.3}
    return VisionTransformer(**{**options, **kwargs})


def mm_swin(**kwargs) -> nn.Module:
    options = {"img_size": 32, "patch_size": 2, "window_size": 4, "out_indices": (1,), "drop_path_rate": 0.3}
    return SwinTransformer(arch=SWIN_ARCH, **{**options, **kwargs})


def t_vit(**kwargs) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0}
    return timm_vit.VisionTransformer(**{**options, "num_classes": 5, "drop_path_rate": 0.3, **kwargs})


def t_swin(**kwargs) -> nn.Module:
    options = {
        "img_size": 32,
        "patch_size": 2,
        "window_size": 4,
        "embed_dim": 64,
        "depths": (2, 2),
        "num_heads": (2, 4),
    }
    return timm_swin.SwinTransformer(
        **{**options, "num_heads": (2, 4), "num_classes": 5, "drop_path_rate": 0.3, **kwargs}
    )


def dense_swin(package) -> Callable[..., nn.Module]:
    def make(**kwargs) -> nn.Module:
        options = {"embed_dims": 64, "patch_size": 2, "strides": (2, 2), "window_size": 4, "mlp_ratio": 2}
        options |= {"depths": (2, 2), "num_heads": (2, 4), "out_indices": (0, 1), "drop_path_rate": 0.3}
        return package.models.SwinTransformer(**{**options, **kwargs})

    return make


def seg_vit(**kwargs) -> nn.Module:
    options = {"img_size": 32, "patch_size": 8, "embed_dims": 64, "num_layers": 3, "num_heads": 4, "mlp_ratio": 2}
    return mmseg.models.backbones.VisionTransformer(
        **{**options, "final_norm": True, "patch_bias": True, "drop_path_rate": 0.3, **kwargs}
    )


def video_vit(**kwargs) -> nn.Module:
    options = {"img_size": 16, "patch_size": 8, "embed_dims": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
    return mmaction.models.backbones.VisionTransformer(**{**options, "num_frames": 4, "drop_path_rate": 0.3, **kwargs})


def video_swin(**kwargs) -> nn.Module:
    arch = {"embed_dims": 64, "depths": [2, 2], "num_heads": [2, 4]}
    options = {"patch_size": (2, 4, 4), "window_size": (2, 2, 2), "out_indices": (1,), "mlp_ratio": 2}
    return mmaction.models.backbones.SwinTransformer3D(
        arch, **{**options, "pretrained2d": False, "drop_path_rate": 0.3, **kwargs}
    )


#: Builder of each registered host; a registered host that is not here fails the tests.
BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "mmpretrain.VisionTransformer": mm_vit,
    "mmpretrain.SwinTransformer": mm_swin,
    "timm.VisionTransformer": t_vit,
    "timm.SwinTransformer": t_swin,
    "mmdet.SwinTransformer": dense_swin(mmdet),
    "mmseg.SwinTransformer": dense_swin(mmseg),
    "mmseg.VisionTransformer": seg_vit,
    "mmaction.VisionTransformer": video_vit,
    "mmaction.SwinTransformer3D": video_swin,
}

#: Size of the input that every host takes: an image, or the frames of a clip.
SIZES = dict.fromkeys(BUILDERS, (32, 32))
SIZES |= {"mmdet.SwinTransformer": (16, 16), "mmseg.SwinTransformer": (16, 16)}
SIZES |= {"mmaction.VisionTransformer": (4, 16, 16), "mmaction.SwinTransformer3D": (6, 16, 16)}

_DENSE_SWIN = {
    "plain": ({}, (16, 16)),
    "padded": ({}, (22, 13)),
    "one-output": ({"out_indices": (1,)}, (16, 16)),
    "small-map": ({}, (6, 6)),
    "checkpointed": ({"with_cp": True}, (16, 16)),
    "dropout": ({"drop_rate": 0.1, "attn_drop_rate": 0.1}, (16, 16)),
}

#: Options of each host under which the re-stated forward is compared with the original, and the image size.
VARIANTS: dict[str, dict[str, tuple[dict, tuple[int, int]]]] = {
    "mmpretrain.VisionTransformer": {
        "plain": ({}, (32, 32)),
        "other-size": ({}, (48, 40)),
        "mean-pooled": ({"out_type": "avg_featmap"}, (32, 32)),
        "no-class-token": ({"with_cls_token": False, "out_type": "avg_featmap"}, (32, 32)),
        "layer-scale": ({"layer_scale_init_value": 0.1}, (32, 32)),
        "no-qkv-bias": ({"qkv_bias": False}, (32, 32)),
        "pre-norm": ({"pre_norm": True}, (32, 32)),
        "dropout": ({"drop_rate": 0.1, "layer_cfgs": {"attn_drop_rate": 0.1}}, (32, 32)),
        "several-outputs": ({"out_indices": [0, 1, 2], "out_type": "featmap"}, (32, 32)),
    },
    "mmpretrain.SwinTransformer": {
        "plain": ({}, (32, 32)),
        "padded": ({"pad_small_map": True}, (36, 26)),
        "larger": ({}, (48, 64)),
        "small-map": ({"pad_small_map": True}, (12, 12)),
        "position-embedding": ({"use_abs_pos_embed": True}, (32, 32)),
        "several-outputs": ({"out_indices": (0, 1)}, (32, 32)),
        "checkpointed": ({"with_cp": True}, (32, 32)),
        "dropout": ({"drop_rate": 0.1, "stage_cfgs": {"block_cfgs": {"attn_cfgs": {"attn_drop": 0.1}}}}, (32, 32)),
    },
    "timm.VisionTransformer": {
        "plain": ({}, (32, 32)),
        "layer-scale": ({"init_values": 0.1}, (32, 32)),
        "registers": ({"reg_tokens": 2}, (32, 32)),
        "no-class-token": ({"class_token": False, "global_pool": "avg"}, (32, 32)),
        "dynamic-size": ({"dynamic_img_size": True}, (48, 40)),
        "qk-norm": ({"qk_norm": True}, (32, 32)),
        "dropout": ({"attn_drop_rate": 0.1, "proj_drop_rate": 0.1}, (32, 32)),
    },
    "timm.SwinTransformer": {
        "plain": ({}, (32, 32)),
        "other-size": ({"strict_img_size": False}, (48, 40)),
        "dropout": ({"attn_drop_rate": 0.1, "proj_drop_rate": 0.1}, (32, 32)),
        "padded": ({"img_size": 36}, (36, 36)),
    },
    "mmdet.SwinTransformer": _DENSE_SWIN,
    "mmseg.SwinTransformer": {**_DENSE_SWIN, "no-qkv-bias": ({"qkv_bias": False}, (16, 16))},
    "mmseg.VisionTransformer": {
        "plain": ({}, (32, 32)),
        "other-size": ({}, (48, 40)),
        "several-outputs": ({"out_indices": [0, 2], "final_norm": False}, (32, 32)),
        "no-class-token": ({"with_cls_token": False}, (32, 32)),
        "no-qkv-bias": ({"qkv_bias": False}, (32, 32)),
        "pre-norm": ({"pre_norm": True, "patch_norm": True}, (32, 32)),
        "checkpointed": ({"with_cp": True}, (32, 32)),
        "dropout": ({"drop_rate": 0.1, "attn_drop_rate": 0.1}, (32, 32)),
    },
    "mmaction.VisionTransformer": {
        "plain": ({}, (4, 16, 16)),
        "first-token": ({"use_mean_pooling": False}, (4, 16, 16)),
        "maps": ({"return_feat_map": True}, (4, 16, 16)),
        "layer-scale": ({"init_values": 0.1}, (4, 16, 16)),
        "no-qkv-bias": ({"qkv_bias": False}, (4, 16, 16)),
        "learned-positions": ({"use_learnable_pos_emb": True}, (4, 16, 16)),
        "other-size": ({}, (4, 24, 32)),
        "dropout": ({"drop_rate": 0.1, "attn_drop_rate": 0.1}, (4, 16, 16)),
    },
    "mmaction.SwinTransformer3D": {
        "plain": ({}, (6, 16, 16)),
        "padded": ({"window_size": (2, 3, 2)}, (7, 22, 13)),
        "one-window-in-time": ({"window_size": (8, 2, 2)}, (6, 16, 16)),
        "small-map": ({"window_size": (8, 7, 7)}, (6, 16, 16)),
        "several-outputs": ({"out_indices": (0, 1)}, (6, 16, 16)),
        "dropout": ({"drop_rate": 0.1, "attn_drop_rate": 0.1}, (6, 16, 16)),
    },
}


def build(name: str, dtype: torch.dtype = torch.float64, **kwargs) -> nn.Module:
    """A tiny host in eval mode with random weights, none of them at a value that hides an error."""
    torch.manual_seed(0)
    model = BUILDERS[name](**kwargs).to(dtype)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn_like(param) * 0.05)
    model.eval()
    return model


def tokens(model: nn.Module, images: Tensor, seed: int = 0) -> Tensor:
    """All output tokens: what every trained parameter can be seen in."""
    torch.manual_seed(2654435761 * (seed + 1) % 2**32)  # small seeds alike draw alike
    out = model.forward_features(images) if hasattr(model, "forward_features") else model(images)
    return torch.cat([o.flatten(1) for o in out], 1) if isinstance(out, (tuple, list)) else out


def perturb(model: nn.Module, scale: float = 0.1) -> nn.Module:
    """Move every trained parameter away from its start."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for param in model.parameters():
            if param.requires_grad:
                param.add_(torch.randn(param.shape, generator=generator, dtype=param.dtype) * scale)
    return model


def loss(out: Tensor) -> Tensor:
    """A scalar that weighs every output with a number of its own."""
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return (out * weights.to(out.dtype)).sum()


def head_names(model: nn.Module) -> tuple[str, ...]:
    adaptation = get_adaptation(model)
    return tuple(f"{name}." for name in adaptation.host.heads()) if adaptation else ()


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Trained parameters of the backbone by key, its head left out."""
    heads = head_names(model)
    return {k: p for k, p in model.named_parameters() if p.requires_grad and not (heads and k.startswith(heads))}


def clone(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model)
