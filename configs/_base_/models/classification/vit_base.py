# ViT-B/16 of 224 pixels, pretrained on ImageNet-21k (Google's `ViT-B_16.npz`).
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="VisionTransformer",
        arch="base",
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/ViT-B_16.npz"),
    ),
    neck=None,
    head=dict(
        type="LinearClsHead",
        num_classes=100,
        in_channels=768,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
