# Nano ViT for 32 x 32 pixels, pretrained on images drawn by rule and shipped with vpeft (docs/nano_hosts.md).
# Pixels are expected as (value - 127.5) / 127.5.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="VisionTransformer",
        arch=dict(embed_dims=64, num_layers=6, num_heads=2, feedforward_channels=256),
        img_size=32,
        patch_size=8,
        out_type="cls_token",
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_vit"),
    ),
    neck=None,
    head=dict(
        type="LinearClsHead",
        num_classes=10,
        in_channels=64,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
