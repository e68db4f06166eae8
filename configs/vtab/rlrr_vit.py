# RLRR on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
    "../_base_/authors_values/rlrr.py",
]
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="RLRR")))
optim_wrapper = dict(optimizer=dict(lr=0.003, weight_decay=5e-05))
train_dataloader = dict(batch_size=32)
