"""ViTDet of transformers."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny


@tiny(
    "transformers.VitDetModel",
    (3, 40, 40),
    grid=(10, 10),
    variants={
        "other-size": ({}, (3, 24, 36)),
        "dropout": {"dropout_prob": 0.1},
        "no-relative-positions": {"use_relative_position_embeddings": False},
        "backbone": {"out_features": ["stage1", "stage3"]},
    },
    larger=({"pretrain_image_size": 40}, (3, 40, 40)),
)
def vitdet(**options) -> nn.Module:
    from transformers import VitDetBackbone, VitDetConfig, VitDetModel

    plain = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 2, "image_size": 40}
    plain |= {"pretrain_image_size": 32, "patch_size": 4, "window_size": 4, "window_block_indices": [0, 2]}
    plain |= {"use_relative_position_embeddings": True, "drop_path_rate": 0.3}
    model = VitDetBackbone if "out_features" in options else VitDetModel
    return model(VitDetConfig(**{**plain, **options}))
