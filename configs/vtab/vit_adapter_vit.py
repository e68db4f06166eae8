# ViT-Adapter on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="ViT-Adapter")))
