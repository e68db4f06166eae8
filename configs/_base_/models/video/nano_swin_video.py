# The nano Swin inflated to clips of 8 frames: tubelets of 2 frames, windows of 4 x 4 x 4, the image's position tables
# at every time. Pixels are expected as (value - 127.5) / 127.5.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="SwinTransformer3D",
        arch=dict(embed_dims=24, depths=[2, 2, 2], num_heads=[1, 2, 4]),
        pretrained2d=False,
        patch_size=(2, 2, 2),
        window_size=(4, 4, 4),
        mlp_ratio=4.0,
        qkv_bias=True,
        out_indices=(2,),
        drop_path_rate=0.0,
        patch_norm=True,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_swin"),
    ),
    cls_head=dict(type="I3DHead", num_classes=6, in_channels=96, dropout_ratio=0.0, average_clips="prob"),
    data_preprocessor=dict(type="ActionDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, format_shape="NCTHW"),
)
