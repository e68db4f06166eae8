# The embedded scenes in COCO's layout, Cascade Mask R-CNN on the nano Swin.
_base_ = [
    "../../_base_/models/detection/cascade_mask_nano_swin.py",
    "../../_base_/datasets/detection/scene_coco.py",
    "../../_base_/schedules/nano_instances.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_swin.py",
]
methods_table = "nano"
default_hooks = dict(checkpoint=dict(interval=1))
train_dataloader = dict(batch_size=4)
