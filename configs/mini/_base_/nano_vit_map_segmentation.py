# The embedded scenes with label maps, a linear classifier of pixels on the last map of the nano ViT.
_base_ = [
    "../../_base_/models/segmentation/seg_nano_vit_map.py",
    "../../_base_/datasets/segmentation/scene_maps.py",
    "../../_base_/schedules/nano_segmentation.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/dense_vit_one_map.py",
]
methods_table = "nano"
default_hooks = dict(checkpoint=dict(interval=200))
