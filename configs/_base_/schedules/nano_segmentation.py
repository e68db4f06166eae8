# 400 steps of 8 images, 40 of warm-up, cosine to zero: half a minute on one core.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=40),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=40, end=400),
]
train_cfg = dict(by_epoch=False, max_iters=400, val_interval=200)
