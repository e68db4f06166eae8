# SGD without weight decay, learning rate 0.1 per 256 clips, 10 epochs of warm-up, half a cosine to zero by iteration.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=0.0),
)
auto_scale_lr = dict(enable=True, base_batch_size=256)  # by the clips of a step on all devices
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-4, by_epoch=True, begin=0, end=10, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=True, begin=10, end=100, convert_to_iter_based=True),
]
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=10)
