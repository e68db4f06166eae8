# The nano ViT inflated to clips of 8 frames: tubelets of 2 frames, 4 x 4 x 4 tokens, the image's positions at every
# time. Pixels are expected as (value - 127.5) / 127.5.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="VisionTransformer",
        img_size=32,
        patch_size=8,
        embed_dims=64,
        depth=6,
        num_heads=2,
        mlp_ratio=4,
        qkv_bias=True,
        num_frames=8,
        tubelet_size=2,
        use_learnable_pos_emb=True,
        drop_path_rate=0.0,
        norm_cfg=dict(type="LN", eps=1e-6),
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_vit"),
    ),
    cls_head=dict(type="TimeSformerHead", num_classes=6, in_channels=64, average_clips="prob"),
    data_preprocessor=dict(type="ActionDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, format_shape="NCTHW"),
)
