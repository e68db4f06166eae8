# Swin-B, window 7, 224 pixels, pretrained on ImageNet-22k (Microsoft's official file).
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="SwinTransformer",
        arch="base",
        img_size=224,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_base_patch4_window7_224_22k.pth"),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=100,
        in_channels=1024,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
