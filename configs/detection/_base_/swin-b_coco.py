# COCO with Cascade Mask R-CNN on Swin-B.
_base_ = [
    "../../_base_/models/detection/cascade_mask_swin_base.py",
    "../../_base_/datasets/detection/coco_instances.py",
    "../../_base_/schedules/coco_36e.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_swin.py",
]
methods_table = "dense"
published = "Swin-B"  # the column of published parameters
default_hooks = dict(checkpoint=dict(interval=1))
