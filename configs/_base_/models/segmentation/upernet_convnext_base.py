# UPerNet on ConvNeXt-B, pretrained on ImageNet-22k (timm's file), with mmseg's auxiliary FCN head.
_base_ = ["upernet_swin_large.py"]
model = dict(
    data_preprocessor=dict(test_cfg=dict(size_divisor=32)),
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/convnext_base",
        weights="checkpoints/convnext_base.fb_in22k.safetensors",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
