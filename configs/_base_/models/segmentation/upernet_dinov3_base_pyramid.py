# UPerNet on the four maps that a method gives beside DINOv3 ViT-B/16, such as ViT-Adapter; images in multiples of 32.
_base_ = ["upernet_dinov3_base.py"]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(out_indices=(11,), drop_path_rate=0.0),
    neck=None,
)
