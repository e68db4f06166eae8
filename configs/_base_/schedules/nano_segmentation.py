# 600 steps of 8 images, 60 of warm-up, cosine to zero: about a minute on one core.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=3e-3, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=60),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=60, end=600),
]
train_cfg = dict(by_epoch=False, max_iters=600, val_interval=300)
