# COCO with Cascade Mask R-CNN on DINOv3 ViT-B/16.
_base_ = [
    "../../_base_/models/detection/cascade_mask_dinov3_base.py",
    "../../_base_/datasets/detection/coco_instances.py",
    "../../_base_/schedules/coco_36e.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_vit_one_map.py",
]
methods_table = "dense"
default_hooks = dict(checkpoint=dict(interval=1))
without = dict(vit_split="its copies of the last blocks have no rotary positions, which those of DINOv3 need")
