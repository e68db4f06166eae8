# Nano Swin for 32 x 32 pixels, pretrained on images drawn by rule and shipped with vpeft (docs/nano_hosts.md).
# Pixels are expected as (value - 127.5) / 127.5.
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="SwinTransformer",
        arch=dict(embed_dims=24, depths=[2, 2, 2], num_heads=[1, 2, 4]),
        img_size=32,
        patch_size=2,
        window_size=4,
        out_indices=(2,),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_swin"),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=10,
        in_channels=96,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
