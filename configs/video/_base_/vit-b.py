# VideoMAE's ViT-B, on every data set of the table in datasets/video.py.
_base_ = [
    "../../_base_/models/video/videomae_base.py",
    "../../_base_/datasets/video/video.py",
    "../../_base_/schedules/video.py",
    "../../_base_/runtimes/video.py",
    "../../_base_/without/video_vit.py",
]
methods_table = "video"
published = "VideoMAE ViT-B"  # the column of published parameters
