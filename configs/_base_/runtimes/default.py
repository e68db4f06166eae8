# What every run shares.
default_scope = "mmpretrain"
custom_imports = dict(imports=["vpeft"])
custom_hooks = [
    dict(type="vpeft.PEFTHook"),
    dict(type="vpeft.EpochSeedHook"),
    dict(type="vpeft.LossGuardHook"),
    dict(type="vpeft.ProgressHook"),
]
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=10, max_keep_ckpts=2, save_last=True),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
vis_backends = [dict(type="LocalVisBackend")]
visualizer = dict(type="UniversalVisualizer", vis_backends=vis_backends)
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0, deterministic=True)
# With a limit ("20GB") what the frozen part of the backbone makes of an image is kept (docs/running.md).
# With views=4 each image is augmented in four ways, the same in every run: another setting, with or without a limit.
feature_cache = dict(limit=None, folder=None, views=None)
# With a limit images are decoded and resized once (docs/running.md).
data_store = dict(limit=None, folder=None)
# "fsdp" shares the frozen weights out among the processes (docs/running.md).
strategy = None
