# ADE20K with UPerNet on DINOv3 ViT-B/16.
_base_ = [
    "../../_base_/models/segmentation/upernet_dinov3_base.py",
    "../../_base_/datasets/segmentation/ade20k.py",
    "../../_base_/schedules/segmentation_160k.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_vit.py",
]
methods_table = "dense"
default_hooks = dict(checkpoint=dict(interval=16_000))
