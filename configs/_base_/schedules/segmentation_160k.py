# 160k iterations: AdamW, 1500 of warm-up, then linearly to zero; one recipe for all methods. No decay on norms and
# position tables alone, as in Mona's repository.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    paramwise_cfg=dict(undecayed="norms"),
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", eta_min=0.0, power=1.0, by_epoch=False, begin=1500, end=160_000),
]
train_cfg = dict(by_epoch=False, max_iters=160_000, val_interval=16_000)
