"""torchvision's Swin, of both versions."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny

V2 = {"version": 2}


def _every_token(model: nn.Module, images: Tensor) -> Tensor:
    """The normed map, before the head."""
    return model.norm(model.features(images))


@tiny(
    "torchvision.SwinTransformer",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "padded": ({}, (3, 36, 26)),
        "other-size": ({}, (3, 44, 24)),
        "small-map": ({}, (3, 6, 20)),
        "dropout": {"dropout": 0.1, "attention_dropout": 0.1},
        "v2": V2,
        "v2-padded": (V2, (3, 36, 26)),
        "v2-dropout": {**V2, "dropout": 0.1, "attention_dropout": 0.1},
    },
    larger=({"window_size": [2, 2]}, (3, 32, 32)),
    kinds=("v2",),
    call=_every_token,
)
def tv_swin(version: int = 1, **options) -> nn.Module:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

    plain = {"patch_size": [2, 2], "embed_dim": 64, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
    kind = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if version == 2 else {}
    plain |= {"mlp_ratio": 2.0, "num_classes": 5, "stochastic_depth_prob": 0.3}
    return SwinTransformer(**{**plain, **kind, **options})
