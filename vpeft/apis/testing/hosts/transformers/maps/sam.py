"""SAM's encoder of transformers, and its copies."""

from torch import nn

from vpeft.apis.testing.hosts.tiny import tiny

EAGER = {"eager": True, "attention_dropout": 0.1}


@tiny(
    "transformers.SamVisionEncoder",
    (3, 40, 40),
    grid=(10, 10),
    variants={
        "dropout": EAGER,
        "got-ocr": {"copy": "GotOcr2", "eager": True},
        "no-relative-positions": {"use_rel_pos": False},
        "no-positions": {"use_abs_pos": False},
        "no-qkv-bias": {"qkv_bias": False},
    },
)
def sam(copy: str = "Sam", eager: bool = False, **options) -> nn.Module:
    from transformers.models.got_ocr2 import configuration_got_ocr2, modeling_got_ocr2
    from transformers.models.sam import configuration_sam, modeling_sam
    from transformers.models.sam_hq import configuration_sam_hq, modeling_sam_hq

    modules = (
        (modeling_sam, configuration_sam),
        (modeling_sam_hq, configuration_sam_hq),
        (modeling_got_ocr2, configuration_got_ocr2),
    )
    model, config = modules[("Sam", "SamHQ", "GotOcr2").index(copy)]
    plain = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_dim": 128, "output_channels": 16}
    plain |= {"image_size": 40, "patch_size": 4, "window_size": 4, "global_attn_indexes": [1]}
    made = getattr(config, f"{copy}VisionConfig")(**{**plain, **options})
    made._attn_implementation = "eager" if eager else "sdpa"
    return getattr(model, f"{copy}VisionEncoder")(made)
