# The embedded scenes in VOC's layout, RetinaNet on the nano Swin.
_base_ = [
    "../../_base_/models/detection/retinanet_nano_swin.py",
    "../../_base_/datasets/detection/scene_voc.py",
    "../../_base_/schedules/nano_detection.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_swin.py",
]
methods_table = "nano"
default_hooks = dict(checkpoint=dict(interval=4))
