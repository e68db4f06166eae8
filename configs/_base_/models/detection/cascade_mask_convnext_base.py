# Cascade Mask R-CNN on ConvNeXt-B, pretrained on ImageNet-22k (timm's file). Its stages have no norms at their ends:
# the pyramid has them.
_base_ = ["cascade_mask_swin_base.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/convnext_base",
        weights="checkpoints/convnext_base.fb_in22k.safetensors",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024], norm_cfg=dict(type="GN", num_groups=32, requires_grad=True)),
)
