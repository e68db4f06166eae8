"""mmpretrain's Swin V2."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

ARCH = {"embed_dims": 64, "depths": [2, 2], "num_heads": [2, 4]}


def _attention(**options) -> dict:
    return {"stage_cfgs": {"block_cfgs": {"attn_cfgs": options}}}


@tiny(
    "mmpretrain.SwinTransformerV2",
    (3, 32, 32),
    grid=(8, 8),
    variants={
        "padded": ({"pad_small_map": True}, (3, 36, 26)),
        "other-size": ({"pad_small_map": True}, (3, 44, 24)),
        "small-map": ({"pad_small_map": True}, (3, 12, 12)),
        "several-outputs": {"out_indices": (0, 1)},
        "extra-norm": {"every": 2},
        "checkpointed": {"with_cp": True},
        "no-qkv-bias": _attention(qkv_bias=False),
        "dropout": {"drop_rate": 0.1, **_attention(attn_drop=0.1)},
    },
)
def mm_swinv2(every: int = 0, **options) -> nn.Module:
    from mmpretrain.models import SwinTransformerV2

    plain = {"img_size": 32, "patch_size": 2, "window_size": 4, "out_indices": (1,), "drop_path_rate": 0.3}
    arch = {**ARCH, "extra_norm_every_n_blocks": every}
    return SwinTransformerV2(**{"arch": arch, **plain, **options})
