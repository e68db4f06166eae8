# The moving shapes, recognised by the nano ViT inflated to video.
_base_ = [
    "../../_base_/models/video/nano_vit_video.py",
    "../../_base_/datasets/video/moving_shapes.py",
    "../../_base_/schedules/nano_video.py",
    "../../_base_/runtimes/video.py",
    "../../_base_/without/video_vit.py",
]
methods_table = "nano_video"
