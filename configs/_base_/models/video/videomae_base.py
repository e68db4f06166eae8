# VideoMAE's ViT-B/16 on clips of 8 frames, pretrained on Kinetics-400 (the official file, called checkpoint.pth there).
# Tubelets of 2 frames: 4 x 14 x 14 tokens. The sine table of positions is computed; its rows run through time last, so
# that the table of 8 frames is the first half of that of the 16 frames of pretraining.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="VisionTransformer",
        img_size=224,
        patch_size=16,
        embed_dims=768,
        depth=12,
        num_heads=12,
        mlp_ratio=4,
        qkv_bias=True,
        num_frames=8,
        tubelet_size=2,
        drop_path_rate=0.4,
        norm_cfg=dict(type="LN", eps=1e-6),
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/videomae_vit_b_k400_pretrain.pth"),
    ),
    cls_head=dict(type="TimeSformerHead", num_classes=174, in_channels=768, average_clips="prob"),
    data_preprocessor=dict(
        type="ActionDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        format_shape="NCTHW",
    ),
    test_cfg=dict(max_testing_views=4),
)
