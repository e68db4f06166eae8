# ADE20K with UPerNet on ConvNeXt-B.
_base_ = [
    "../../_base_/models/segmentation/upernet_convnext_base.py",
    "../../_base_/datasets/segmentation/ade20k.py",
    "../../_base_/schedules/segmentation_160k.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_convnext.py",
]
methods_table = "dense_convnext"
default_hooks = dict(checkpoint=dict(interval=16_000))
