# A linear classifier of pixels on the last map of the nano ViT, for methods whose output is one map.
_base_ = ["seg_nano_vit.py"]
model = dict(
    backbone=dict(out_indices=(5,)),
    decode_head=dict(
        _delete_=True,
        type="FCNHead",
        in_channels=64,
        in_index=0,
        channels=64,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=7,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
)
