# The common VTAB-1k recipe: AdamW, 100 epochs, 10 of warm-up from 1e-6, cosine to 1e-5.
# No weight decay on biases, norms, scales and position tables (the constructor sees to it).
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="AdamW", lr=1e-3, weight_decay=1e-4),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=10, end=100, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64, enable=False)
