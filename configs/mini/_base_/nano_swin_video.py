# The moving shapes, recognised by the nano Swin inflated to video.
_base_ = [
    "../../_base_/models/nano_swin_video.py",
    "../../_base_/datasets/moving_shapes.py",
    "../../_base_/schedules/nano_video.py",
    "../../_base_/video_runtime.py",
    "../../_base_/without/video_swin.py",
]
methods_table = "nano"
