# A linear classifier of pixels on one map of DINOv2 ViT-B/14 (timm's file), made four times as large: for methods whose
# output is one map, such as ViT-Split. Images are padded to whole patches of 14 pixels, and the padding is cut off.
_base_ = ["upernet_dinov2_base.py"]
model = dict(
    backbone=dict(out_indices=(11,), drop_path_rate=0.0),
    neck=dict(
        _delete_=True, type="vpeft.SimpleFeaturePyramid", in_channels=768, out_channels=256, scales=(4,), num_outs=1
    ),
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_channels=256,
        in_index=0,
        channels=256,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=150,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=None,
)
