# GLoRA's supernet on ViT-B/16, VTAB-1k: for tools/noah.py, which searches a subnet and cuts it out. The values are
# those of Arnav0400/ViT-Slim, GLoRA/supernet.py and evolution.py, whose search looks at the test images.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
train_split = "train800"  # val200 is what the search looks at
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="GLoRA", rank=4)))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=10, end=500, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=500, val_interval=100)
custom_hooks = [*_base_.custom_hooks, dict(type="vpeft.SupernetHook")]
noah = dict(
    subnet_config="glora_vit.py",
    retrain=False,
    limit=1_000_000,
    epochs=20,
    population=50,
    parents=10,
    mutations=25,
    crossovers=25,
    form_prob=0.2,
)
