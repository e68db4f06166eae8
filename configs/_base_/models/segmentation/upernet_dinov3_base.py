# UPerNet on DINOv3 ViT-B/16 (timm's file), as on DINOv2.
_base_ = ["upernet_dinov2_base.py"]
model = dict(
    data_preprocessor=dict(size=(512, 512), test_cfg=dict(size_divisor=16)),
    backbone=dict(
        of="timm/vit_base_patch16_dinov3", weights="checkpoints/vit_base_patch16_dinov3.lvd1689m.safetensors"
    ),
)
