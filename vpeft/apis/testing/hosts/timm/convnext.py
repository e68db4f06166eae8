"""timm's ConvNeXt."""

from torch import Tensor, nn

from vpeft.apis.testing.hosts.tiny import tiny


def features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """All tokens, and what the head takes."""
    x = model.forward_features(images)
    return x, model.forward_head(x, pre_logits=True)


@tiny(
    "timm.ConvNeXt",
    (3, 32, 32),
    grid=(4, 4),
    variants={
        "version-2": {"use_grn": True, "ls_init_value": None},
        "convolutions": {"conv_mlp": True},
        "convolutions-version-2": {"conv_mlp": True, "use_grn": True, "ls_init_value": None},
        "overlapping-stem": {"stem_type": "overlap_tiered", "head_hidden_size": 24},
        "norm-before-pooling": {"head_norm_first": True},
        "dilated": {"output_stride": 8},
        "other-size": ({}, (3, 44, 36)),
    },
    call=features,
)
def t_convnext(**options) -> nn.Module:
    from timm.models.convnext import ConvNeXt

    plain = {"depths": (1, 1, 2, 1), "dims": (64, 64, 72, 80), "ls_init_value": 0.1, "patch_size": 1}
    return ConvNeXt(**{**plain, "num_classes": 5, "drop_path_rate": 0.3, **options})
