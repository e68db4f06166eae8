# The nano ViT on clips of 8 frames, each an image of its own; the class tokens of the frames are averaged. Pixels are
# expected as (value - 127.5) / 127.5.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="vpeft.ClipBackbone",
        image=dict(
            type="mmpretrain.VisionTransformer",
            arch=dict(embed_dims=64, num_layers=6, num_heads=2, feedforward_channels=256),
            img_size=32,
            patch_size=8,
            out_type="cls_token",
            drop_path_rate=0.0,
            init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_vit"),
        ),
    ),
    cls_head=dict(type="TimeSformerHead", num_classes=6, in_channels=64, average_clips="prob"),
    data_preprocessor=dict(type="ActionDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, format_shape="NCTHW"),
)
