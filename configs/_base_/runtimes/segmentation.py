# What every segmentation run shares: iterations instead of epochs, and mmseg's visualizer.
_base_ = ["default.py"]
default_scope = "mmseg"
custom_imports = dict(imports=["vpeft", "vpeft.core.datasets.segmentation.label_maps"])
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False),
    checkpoint=dict(by_epoch=False),
)
log_processor = dict(by_epoch=False)
visualizer = dict(_delete_=True, type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
main_metric = "mIoU"
val_cfg = dict()
test_cfg = dict()
