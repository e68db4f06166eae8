# PASCAL VOC 07+12 with RetinaNet on Swin-L.
_base_ = [
    "../../_base_/models/detection/retinanet_swin_large.py",
    "../../_base_/datasets/detection/voc0712.py",
    "../../_base_/schedules/voc_4e.py",
    "../../_base_/runtimes/detection.py",
    "../../_base_/without/dense_swin.py",
]
methods_table = "dense"
published = "Swin-L"  # the column of published parameters
default_hooks = dict(checkpoint=dict(interval=1))
