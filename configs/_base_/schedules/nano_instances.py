# 2 epochs of 200 steps of 4 images, 50 steps of warm-up, cosine to zero.
_base_ = ["nano_detection.py"]
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-2, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", eta_min=0.0, by_epoch=False, begin=50, end=400),
]
train_cfg = dict(max_epochs=2, val_interval=1)
