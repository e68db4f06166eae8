# COCO with Cascade Mask R-CNN on DINOv2 ViT-B/14.
_base_ = [
    "../../_base_/models/detection/cascade_mask_dinov2_base.py",
    "../../_base_/datasets/detection/coco_instances.py",
    "../../_base_/schedules/coco_36e.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_vit_one_map.py",
]
methods_table = "dense"
default_hooks = dict(checkpoint=dict(interval=1))
