# 36 epochs, steps at 27 and 33, 500 steps of warm-up; one recipe for all methods. No decay on norms and
# position tables alone, as in Mona's repository, where the published rows were made.
optim_wrapper = dict(
    type="OptimWrapper",
    constructor="vpeft.PEFTOptimWrapperConstructor",
    paramwise_cfg=dict(undecayed="norms"),
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[27, 33], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=36, val_interval=12)
