# GPS on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
    "../_base_/authors_values/gps.py",
]
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="GPS", entries=1)))
optim_wrapper = dict(optimizer=dict(_delete_=True, type="Adam", lr=0.002, weight_decay=0.0))
train_dataloader = dict(batch_size=32)
