# PACE on LoRAmul on ViT-B/16, VTAB-1k: 300 epochs. sigma, weight and rank are the authors' for CIFAR-100 on ViT-B/16,
# the one example that they give; they are to be found for each task on train800 and val200.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT",
        of="VisionTransformer",
        method=dict(type="LoRAmul", rank=10, consistency=dict(sigma=1.2, weight=1.0)),
    )
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=10, end=300, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=300)
