# Cascade Mask R-CNN of 32 channels on the nano Swin, for objects of 8 to 32 pixels.
# Pixels are expected as (value - 127.5) / 127.5.
_classes = 6
_box_loss = dict(type="SmoothL1Loss", beta=1.0, loss_weight=1.0)
_box_heads = [
    dict(
        # Classes are read out linearly: deeper, they stay on a plateau for as long as a run lasts.
        type="ConvFCBBoxHead",
        num_reg_fcs=1,
        fc_out_channels=64,
        in_channels=32,
        roi_feat_size=7,
        num_classes=_classes,
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[s, s, 2 * s, 2 * s]),
        reg_class_agnostic=True,
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0),
        loss_bbox=_box_loss,
    )
    for s in (0.1, 0.05, 0.033)
]
_stages = [
    dict(
        assigner=dict(
            type="MaxIoUAssigner",
            pos_iou_thr=iou,
            neg_iou_thr=iou,
            min_pos_iou=iou,
            match_low_quality=False,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type="RandomSampler", num=32, pos_fraction=0.25, neg_pos_ub=-1, add_gt_as_proposals=True),
        mask_size=14,
        pos_weight=-1,
        debug=False,
    )
    for iou in (0.5, 0.6, 0.7)
]
model = dict(
    type="CascadeRCNN",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[127.5] * 3,
        std=[127.5] * 3,
        bgr_to_rgb=True,
        pad_mask=True,
        pad_size_divisor=32,
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
        out_indices=(0, 1, 2),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="vpeft://nano_swin"),
    ),
    neck=dict(type="FPN", in_channels=[24, 48, 96], out_channels=32, num_outs=3),
    rpn_head=dict(
        type="RPNHead",
        in_channels=32,
        feat_channels=32,
        anchor_generator=dict(type="AnchorGenerator", scales=[4], ratios=[0.5, 1.0, 2.0], strides=[2, 4, 8]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        loss_bbox=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
    ),
    roi_head=dict(
        type="CascadeRoIHead",
        num_stages=3,
        stage_loss_weights=[1, 0.5, 0.25],
        bbox_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=32,
            featmap_strides=[2, 4, 8],
            finest_scale=8,
        ),
        bbox_head=_box_heads,
        mask_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
            out_channels=32,
            featmap_strides=[2, 4, 8],
            finest_scale=8,
        ),
        mask_head=dict(
            type="FCNMaskHead",
            num_convs=2,
            in_channels=32,
            conv_out_channels=32,
            num_classes=_classes,
            loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn=dict(
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.7,
                neg_iou_thr=0.3,
                min_pos_iou=0.3,
                match_low_quality=True,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type="RandomSampler", num=64, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=False),
            allowed_border=0,
            pos_weight=-1,
            debug=False,
        ),
        rpn_proposal=dict(nms_pre=64, max_per_img=32, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=_stages,
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=64, max_per_img=32, nms=dict(type="nms", iou_threshold=0.7), min_bbox_size=0),
        rcnn=dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20, mask_thr_binary=0.5),
    ),
)
normalisation = "inception"
