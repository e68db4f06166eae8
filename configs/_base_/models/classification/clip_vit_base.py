# CLIP's ViT-B/16: quick GELU, a norm before the first block, a head from embeddings of the classes (docs/analysis.md).
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="VisionTransformer",
        arch="base",
        img_size=224,
        patch_size=16,
        pre_norm=True,
        norm_cfg=dict(type="LN", eps=1e-5),
        layer_cfgs=dict(act_cfg=dict(type="mmpretrain.QuickGELU")),
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/clip_vit_base_p16.pth"),
    ),
    neck=None,
    head=dict(
        type="vpeft.EmbeddingHead",
        file="checkpoints/clip_vit_base_p16_imagenet_head.safetensors",
        num_classes=1000,
        in_channels=768,
        dim=512,
        loss=dict(type="CrossEntropyLoss", loss_weight=1.0),
    ),
)
