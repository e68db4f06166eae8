# UPerNet of 16 channels on the nano ViT; its positions, learned for 32 x 32 pixels, are resized. Group norm in the
# head, which is the same on any number of processes. Pixels are expected as (value - 127.5) / 127.5.
norm_cfg = dict(type="GN", num_groups=4, requires_grad=True)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(
        type="SegDataPreProcessor",
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(64, 64),
    ),
    backbone=dict(
        type="VisionTransformer",
        img_size=(64, 64),
        patch_size=8,
        patch_bias=True,
        embed_dims=64,
        num_layers=6,
        num_heads=2,
        mlp_ratio=4,
        out_indices=(1, 3, 5),
        drop_path_rate=0.0,
        norm_cfg=dict(type="LN", eps=1e-6),
        final_norm=True,
        interpolate_mode="bicubic",
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_vit"),
    ),
    neck=dict(type="MultiLevelNeck", in_channels=[64] * 3, out_channels=16, scales=[4, 2, 1]),
    decode_head=dict(
        type="UPerHead",
        in_channels=[16] * 3,
        in_index=[0, 1, 2],
        pool_scales=(1, 2, 4),
        channels=16,
        dropout_ratio=0.0,
        num_classes=7,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
normalisation = "inception"
