# ViT-Split on the nano ViT, the embedded tasks; its head is a map, which the mean is taken of.
_base_ = [
    "../_base_/models/classification/nano_vit.py",
    "../_base_/datasets/classification/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", out_type="featmap", method=dict(type="ViT-Split", tuned=2, maps=2)
    ),
    neck=dict(_delete_=True, type="GlobalAveragePooling"),
)
