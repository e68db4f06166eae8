# NOAH's supernet on ViT-B/16, VTAB-1k: for tools/noah.py, which searches and trains a subnet.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
train_split = "train800"  # val200 is what the search looks at
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", method=dict(type="NOAH", prompts=10, ranks=10, widths=10, drop=0.1)
    )
)
optim_wrapper = dict(optimizer=dict(lr=5e-4, weight_decay=1e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=10, end=500, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=500, val_interval=100)
custom_hooks = [*_base_.custom_hooks, dict(type="vpeft.SupernetHook")]
noah = dict(
    subnet_config="noah_vit.py",
    choices=[1, 5, 10],
    limit=640_000,
    epochs=15,
    population=50,
    parents=10,
    mutations=25,
    crossovers=25,
    depth_prob=0.4,
    size_prob=0.2,
)
