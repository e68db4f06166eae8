# HST on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
    "../_base_/authors_values/hst.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", method=dict(type="HST", drop_path=0.1), drop_path_rate=0.1
    ),
    head=dict(in_channels=72),
)
optim_wrapper = dict(optimizer=dict(lr=0.005, weight_decay=0.0005))
