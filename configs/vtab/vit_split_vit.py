# ViT-Split on ViT-B/16, VTAB-1k; its head is a map, which the mean is taken of: a class token would not see it.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", out_type="featmap", method=dict(type="ViT-Split", tuned=3)
    ),
    neck=dict(_delete_=True, type="GlobalAveragePooling"),
)
