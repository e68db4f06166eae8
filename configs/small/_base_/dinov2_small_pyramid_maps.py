# The same with a simple feature pyramid between backbone and classifier.
_base_ = [
    "../../_base_/models/segmentation/seg_dinov2_small_pyramid.py",
    "../../_base_/datasets/segmentation/real_scene_maps.py",
    "../../_base_/schedules/nano_segmentation.py",
    "../../_base_/runtimes/segmentation.py",
    "../../_base_/without/small_dense.py",
]
methods_table = "small"
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = dict(checkpoint=dict(interval=200))
