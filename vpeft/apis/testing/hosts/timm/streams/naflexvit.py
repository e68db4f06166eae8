"""timm's NaFlexVit."""

import torch
from torch import Tensor, nn

from vpeft.apis.testing.hosts.timm.convnext import features
from vpeft.apis.testing.hosts.tiny import tiny


def patches(images: Tensor, counts: list[tuple[int, int]], size: int = 8) -> dict[str, Tensor]:
    """Patches of a corner of each image, of so many rows and columns, padded to one number."""
    from timm.models.naflexvit import batch_patchify

    length = max(height * width for height, width in counts)
    given = {"patches": images.new_zeros(len(images), length, 3 * size * size)}
    given["patch_coord"] = torch.zeros(len(images), length, 2, dtype=torch.long)
    given["patch_valid"] = torch.zeros(len(images), length, dtype=torch.bool)
    for i, (height, width) in enumerate(counts):
        count = height * width
        given["patches"][i, :count] = batch_patchify(
            images[i : i + 1, :, : height * size, : width * size], (size,) * 2
        )[0]
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        given["patch_coord"][i, :count] = torch.stack((rows, columns), dim=-1).flatten(0, 1)
        given["patch_valid"][i, :count] = True
    return given


def _both(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Of images, and of what is left of them where they are padded patches."""
    if "padded" not in vars(model):
        return features(model, images)
    given = patches(images, [(4, 4), (3, 4)] * (len(images) // 2) + [(2, 3)] * (len(images) % 2))
    found = model.forward_features(**given)
    tokens = found["patches"].clone()
    tokens[:, model.num_prefix_tokens :][~given["patch_valid"]] = 0
    return tokens, model.forward_head(**found, pre_logits=True)


@tiny(
    "timm.NaFlexVit",
    (3, 32, 32),
    grid=(4, 4),
    prefix=1,
    variants={
        "other-size": ({}, (3, 48, 40)),
        "padded-to-patches": ({"dynamic_img_pad": True}, (3, 30, 29)),
        "convolution": {"embed_proj_type": "conv", "pre_norm": True},
        "factorized": {"pos_embed": "factorized", "reg_tokens": 2, "class_token": False, "global_pool": "avg"},
        "eva": {"rope_type": "axial", "attn_type": "eva", "init_values": 0.1, "swiglu_mlp": True},
        "mixed": {"rope_type": "mixed", "scale_mlp_norm": True},
        "grouped": {"rope_type": "dinov3", "num_kv_heads": 2, "qkv_fused": False, "attn_gated": True},
        "mean-pool": {"class_token": False, "global_pool": "avg"},
        "attention-pool": {"global_pool": "map", "class_token": False},
        "padded": {"padded": True},
        "padded-eva": {"padded": True, "rope_type": "axial", "use_key_only_attn_mask": True},
        "padded-mixed": {"padded": True, "rope_type": "mixed", "global_pool": "avg"},
        "plain-products": {"padded": True, "fused": False},
    },
    larger=({"pos_embed_grid_size": (6, 6)}, (3, 48, 48)),
    call=_both,
)
def t_naflexvit(padded: bool = False, fused: bool = True, **options) -> nn.Module:
    from timm.models.naflexvit import NaFlexVit

    plain = {"patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0, "class_token": True}
    plain |= {"pos_embed_grid_size": (4, 4), "global_pool": "token", "drop_path_rate": 0.3}
    model = NaFlexVit(num_classes=5, **{**plain, **options})
    for block in model.blocks:
        block.attn.fused_attn = fused
    if padded:
        model.padded = True
    return model
