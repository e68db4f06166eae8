# RLRR on Swin-B, VTAB-1k.
_base_ = [
    "../_base_/models/classification/swin_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="SwinTransformer", method=dict(type="RLRR", targets=["qkv", "proj", "fc1", "fc2"])
    )
)
optim_wrapper = dict(optimizer=dict(lr=0.003, weight_decay=5e-05))
train_dataloader = dict(batch_size=32)
