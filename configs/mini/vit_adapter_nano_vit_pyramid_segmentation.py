# ViT-Adapter with its four maps beside the nano ViT, the embedded scenes with label maps.
_base_ = [
    "../_base_/models/segmentation/seg_nano_vit_pyramid.py",
    "../_base_/datasets/segmentation/scene_maps.py",
    "../_base_/schedules/nano_segmentation.py",
    "../_base_/runtimes/segmentation.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="VisionTransformer", method=dict(type="ViT-Adapter", pyramid=True, conv_width=16)
    )
)
default_hooks = dict(checkpoint=dict(interval=200))
