# RetinaNet of 32 channels on the last two stages of the nano Swin, for objects of 8 to 32 pixels. Group norm in neck
# and head learns fast and is the same on any number of processes.
# Pixels are expected as (value - 127.5) / 127.5.
norm_cfg = dict(type="GN", num_groups=8, requires_grad=True)
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor", mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True, pad_size_divisor=32
    ),
    backbone=dict(
        type="SwinTransformer",
        pretrain_img_size=32,
        embed_dims=24,
        patch_size=2,
        strides=(2, 2, 2),
        depths=(2, 2, 2),
        num_heads=(1, 2, 4),
        window_size=4,
        out_indices=(1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_swin"),
    ),
    neck=dict(type="FPN", in_channels=[48, 96], out_channels=32, num_outs=2, norm_cfg=norm_cfg),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=6,
        in_channels=32,
        stacked_convs=0,  # a linear read-out behind the neck: deeper, it stays on a plateau for as long as a run lasts
        feat_channels=32,
        norm_cfg=norm_cfg,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=3,
            scales_per_octave=2,
            ratios=[1.0],
            strides=[4, 8],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=200, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=30
    ),
)
normalisation = "inception"
