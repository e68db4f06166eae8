# A linear classifier of pixels on the maps of the nano Swin: what it cannot tell apart, the backbone has to learn.
# Pixels are expected as (value - 127.5) / 127.5.
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
        type="SwinTransformer",
        pretrain_img_size=32,
        embed_dims=24,
        patch_size=2,
        strides=(2, 2, 2),
        depths=[2, 2, 2],
        num_heads=[1, 2, 4],
        window_size=4,
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_swin"),
    ),
    decode_head=dict(  # no convolution: one linear classifier on the maps side by side
        type="FCNHead",
        in_channels=[24, 48, 96],
        in_index=[0, 1, 2],
        input_transform="resize_concat",
        channels=168,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=7,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False, avg_non_ignore=True, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
normalisation = "inception"
