# ADE20K with UPerNet on Swin-L.
_base_ = [
    "../../_base_/models/segmentation/upernet_swin_large.py",
    "../../_base_/datasets/segmentation/ade20k.py",
    "../../_base_/schedules/segmentation_160k.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_swin.py",
]
methods_table = "dense"
published = "Swin-L"  # the column of published parameters
default_hooks = dict(checkpoint=dict(interval=16_000))
