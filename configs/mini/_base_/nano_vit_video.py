# The moving shapes, recognised by the nano ViT inflated to video.
_base_ = [
    "../../_base_/models/nano_vit_video.py",
    "../../_base_/datasets/moving_shapes.py",
    "../../_base_/schedules/nano_video.py",
    "../../_base_/video_runtime.py",
    "../../_base_/without/video_vit.py",
]
methods_table = "nano"
