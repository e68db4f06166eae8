# The moving shapes, seen by the nano ViT frame by frame: what moves how is seen by what looks over time alone.
_base_ = [
    "../../_base_/models/video/nano_vit_frames.py",
    "../../_base_/datasets/video/moving_shapes.py",
    "../../_base_/schedules/nano_video.py",
    "../../_base_/runtimes/video.py",
]
methods_table = "nano_video"
