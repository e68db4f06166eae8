# Cascade Mask R-CNN with a simple feature pyramid on DINOv2 ViT-B/14 (timm's file). Patches of 14 pixels give maps of
# the strides 3.5, 7, 14, 28; images are padded to whole places of the coarsest.
_base_ = ["cascade_mask_swin_base.py"]
_strides = [3.5, 7, 14, 28, 56]
model = dict(
    data_preprocessor=dict(pad_size_divisor=28),
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/vit_base_patch14_dinov2",
        weights="checkpoints/vit_base_patch14_dinov2.lvd142m.safetensors",
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="vpeft.SimpleFeaturePyramid", in_channels=768, out_channels=256, num_outs=5),
    rpn_head=dict(anchor_generator=dict(strides=_strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=_strides[:4]), mask_roi_extractor=dict(featmap_strides=_strides[:4])
    ),
)
