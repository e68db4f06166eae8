# UPerNet on DINOv2 ViT-B/14 (timm's file). Maps of four depths are brought to four sizes by mmseg's MultiLevelNeck.
# Images are padded to whole patches of 14 pixels, and the padding is cut off the predictions.
_base_ = ["upernet_vit_base.py"]
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], size=(518, 518), test_cfg=dict(size_divisor=14)
    ),
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/vit_base_patch14_dinov2",
        weights="checkpoints/vit_base_patch14_dinov2.lvd142m.safetensors",
        out_indices=(2, 5, 8, 11),
        drop_path_rate=0.1,
    ),
)
normalisation = "imagenet"
