# ADE20K with a linear classifier on one map of DINOv2 ViT-B/14.
_base_ = [
    "../../_base_/models/segmentation/linear_dinov2_base.py",
    "../../_base_/datasets/segmentation/ade20k.py",
    "../../_base_/schedules/segmentation_160k.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_vit_one_map.py",
]
methods_table = "dense"
default_hooks = dict(checkpoint=dict(interval=16_000))
