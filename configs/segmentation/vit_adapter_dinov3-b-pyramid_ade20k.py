# ViT-Adapter with its four maps beside DINOv3 ViT-B/16, ADE20K with UPerNet.
_base_ = [
    "../_base_/models/segmentation/upernet_dinov3_base_pyramid.py",
    "../_base_/datasets/segmentation/ade20k.py",
    "../_base_/schedules/segmentation_160k.py",
    "../_base_/runtimes/segmentation.py",
]
model = dict(
    backbone=dict(type="vpeft.PEFT", of="timm/vit_base_patch16_dinov3", method=dict(type="ViT-Adapter", pyramid=True))
)
default_hooks = dict(checkpoint=dict(interval=16_000))
