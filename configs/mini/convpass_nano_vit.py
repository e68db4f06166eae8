# Convpass on the nano ViT, embedded tasks.
_base_ = [
    "../_base_/models/nano_vit.py",
    "../_base_/datasets/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="Convpass", bottleneck=8)))
optim_wrapper = dict(optimizer=dict(lr=0.005))
