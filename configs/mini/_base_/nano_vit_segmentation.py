# The embedded scenes with label maps, a linear classifier of pixels on the nano ViT.
_base_ = [
    "../../_base_/models/segmentation/seg_nano_vit.py",
    "../../_base_/datasets/segmentation/scene_maps.py",
    "../../_base_/schedules/nano_segmentation.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_vit.py",
]
methods_table = "nano"
default_hooks = dict(checkpoint=dict(interval=200))
