# Scenes in front of photographs with boxes, RetinaNet on DINOv2 ViT-S/14.
_base_ = [
    "../../_base_/models/detection/retinanet_dinov2_small.py",
    "../../_base_/datasets/detection/real_scene_coco.py",
    "../../_base_/schedules/nano_detection.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/small_dense.py",
]
methods_table = "small"
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(interval=4))
