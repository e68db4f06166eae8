# What every detection run shares: mmdet's scope and visualizer, the data sets with checks.
_base_ = ["default.py"]
default_scope = "mmdet"
custom_imports = dict(imports=["vpeft", "vpeft.core.datasets.detection.coco"])
visualizer = dict(_delete_=True, type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
val_cfg = dict()
test_cfg = dict()
