# Video Swin-B, windows of 8 x 7 x 7, on clips of 8 frames, trained on Kinetics-400 from ImageNet-22k (official file).
# Tubelets of 2 frames: windows reach over all 4 steps in time, and use the middle of their position tables.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="SwinTransformer3D",
        arch="base",
        pretrained2d=False,
        patch_size=(2, 4, 4),
        window_size=(8, 7, 7),
        mlp_ratio=4.0,
        qkv_bias=True,
        drop_path_rate=0.4,
        patch_norm=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/swin_base_patch244_window877_kinetics400_22k.pth"),
    ),
    cls_head=dict(type="I3DHead", num_classes=174, in_channels=1024, dropout_ratio=0.0, average_clips="prob"),
    data_preprocessor=dict(
        type="ActionDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape="NCTHW",
    ),
    test_cfg=dict(max_testing_views=4),
)
