# CLIP's image ViT-B/16 on clips of 8 frames, each an image of its own; the class tokens of the frames are averaged.
model = dict(
    type="Recognizer3D",
    backbone=dict(
        type="vpeft.ClipBackbone",
        image=dict(
            type="mmpretrain.VisionTransformer",
            arch="base",
            img_size=224,
            patch_size=16,
            pre_norm=True,
            norm_cfg=dict(type="LN", eps=1e-5),
            layer_cfgs=dict(act_cfg=dict(type="mmpretrain.QuickGELU")),
            init_cfg=dict(type="Pretrained", checkpoint="checkpoints/clip_vit_base_p16.pth"),
        ),
    ),
    cls_head=dict(
        type="TimeSformerHead", num_classes=174, in_channels=768, dropout_ratio=0.5, init_std=0.01, average_clips="prob"
    ),
    data_preprocessor=dict(
        type="ActionDataPreprocessor",
        mean=[122.769, 116.741, 104.093],
        std=[68.501, 66.632, 70.323],
        format_shape="NCTHW",
    ),
    test_cfg=dict(max_testing_views=4),
)
