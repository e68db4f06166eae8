# VQT on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="VQT", prompt_length=10)),
    head=dict(in_channels=768 * (1 + 12 * 10)),
)
optim_wrapper = dict(optimizer=dict(lr=0.01, weight_decay=0.0001))
