# What every video run shares: mmaction's scope and visualizer.
_base_ = ["default.py"]
default_scope = "mmaction"
visualizer = dict(_delete_=True, type="ActionVisualizer", vis_backends=[dict(type="LocalVisBackend")])
val_cfg = dict()
test_cfg = dict()
main_metric = "acc/top1"
