# AIM's schedule for an image ViT on clips: AdamW, learning rate 3e-4 per 64 clips, weight decay 0.05, 50 epochs with
# 2.5 of warm-up, half a cosine to zero by iteration. ST-Adapter's authors train for 50 epochs of the same batch too.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=3e-4, weight_decay=0.05),
)
auto_scale_lr = dict(enable=True, base_batch_size=64)  # by the clips of a step on all devices
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, begin=0, end=2.5, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=2.5, end=50, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=50, val_interval=10)
