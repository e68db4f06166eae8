# AdaptFormer on the nano ViT, embedded tasks.
_base_ = [
    "../_base_/models/classification/nano_vit.py",
    "../_base_/datasets/classification/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", method=dict(type="AdaptFormer", bottleneck=8, scale=1.0, drop=0.0)
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.005))
