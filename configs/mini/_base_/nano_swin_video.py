# The moving shapes, recognised by the nano Swin inflated to video.
_base_ = [
    "../../_base_/models/video/nano_swin_video.py",
    "../../_base_/datasets/video/moving_shapes.py",
    "../../_base_/schedules/nano_video.py",
    "../../_base_/runtimes/video.py",
    "../../_base_/without/video_swin.py",
]
methods_table = "nano_video"
