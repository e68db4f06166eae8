# Prefix tuning on the nano ViT, embedded tasks.
_base_ = [
    "../_base_/models/classification/nano_vit.py",
    "../_base_/datasets/classification/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="PrefixTuning", prefix_length=5))
)
optim_wrapper = dict(optimizer=dict(lr=0.005))
