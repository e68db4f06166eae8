# Video Swin-B, on every data set of the table in datasets/video.py.
_base_ = [
    "../../_base_/models/video/video_swin_base.py",
    "../../_base_/datasets/video/video.py",
    "../../_base_/schedules/video.py",
    "../../_base_/runtimes/video.py",
    "../../_base_/without/video_swin.py",
]
methods_table = "video_swin"
published = "Video Swin-B"  # the column of published parameters
