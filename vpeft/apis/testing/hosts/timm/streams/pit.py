"""timm's PiT."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny


def _both(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """The map of the last stage, and the tokens before it."""
    tokens, maps = model.forward_intermediates(images)
    return maps[-1], tokens


@tiny(
    "timm.PoolingVisionTransformer",
    (3, 64, 64),
    grid=(4, 4),
    prefix=1,
    variants={
        "distilled": {"distilled": True},
        "other-size": ({"img_size": (64, 96)}, (3, 64, 96)),
        "overlapping": ({"patch_size": 8, "stride": 4}, (3, 64, 64)),
    },
    larger=({"img_size": 96}, (3, 96, 96)),
    call=_both,
)
def t_pit(**options) -> nn.Module:
    from timm.models.pit import PoolingVisionTransformer

    plain = {"img_size": 64, "patch_size": 8, "stride": 8, "base_dims": (32, 32), "depth": (2, 2), "heads": (2, 4)}
    plain |= {"mlp_ratio": 2, "num_classes": 5, "drop_path_rate": 0.3}
    return PoolingVisionTransformer(**{**plain, **options})
