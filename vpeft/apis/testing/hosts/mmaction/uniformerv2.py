"""mmaction's UniFormerV2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "mmaction.UniFormerV2",
    (3, 4, 16, 16),
    grid=(2, 2),
    prefix=1,
    variants={
        "local": {"no_lmhra": False},
        "local-twice": {"no_lmhra": False, "double_lmhra": True},
        "fewer-frames": ({"temporal_downsample": True}, (3, 4, 16, 16)),
        "several-outputs": {"return_list": [0, 2], "n_layers": 2},
        "dropout": {"drop_path_rate": 0.3},
    },
    larger=({"input_resolution": 32}, (3, 4, 32, 32)),
)
def uniformer_v2(**options) -> nn.Module:
    from mmaction.models.backbones import UniFormerV2

    plain = {"input_resolution": 16, "patch_size": 8, "width": 64, "layers": 3, "heads": 4, "t_size": 4, "n_dim": 64}
    plain |= {"n_layers": 1, "n_head": 4, "return_list": [2], "mlp_dropout": [0.5, 0.5], "clip_pretrained": False}
    return UniFormerV2(**{**plain, "backbone_drop_path_rate": 0.3, **options})
