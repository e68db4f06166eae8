# Cascade Mask R-CNN with a simple feature pyramid on DINOv3 ViT-B/16 (timm's file).
_base_ = ["cascade_mask_swin_base.py"]
model = dict(
    backbone=dict(
        _delete_=True,
        type="vpeft.Backbone",
        of="timm/vit_base_patch16_dinov3",
        weights="checkpoints/vit_base_patch16_dinov3.lvd1689m.safetensors",
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type="vpeft.SimpleFeaturePyramid", in_channels=768, out_channels=256, num_outs=5),
)
