# COCO with Cascade Mask R-CNN on ConvNeXt-B.
_base_ = [
    "../../_base_/models/detection/cascade_mask_convnext_base.py",
    "../../_base_/datasets/detection/coco_instances.py",
    "../../_base_/schedules/coco_36e.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_convnext.py",
]
methods_table = "dense_convnext"
default_hooks = dict(checkpoint=dict(interval=1))
