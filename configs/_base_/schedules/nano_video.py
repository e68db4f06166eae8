# The moving shapes: AdamW, 8 epochs of 25 steps, 1 epoch of warm-up, cosine to zero.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=5e-3, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=1, end=8, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=8, val_interval=4)
