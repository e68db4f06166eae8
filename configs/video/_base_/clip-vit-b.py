# CLIP's image ViT-B on the frames of clips, on every data set of the table in datasets/video.py.
_base_ = [
    "../../_base_/models/video/clip_vit_base_frames.py",
    "../../_base_/datasets/video/video.py",
    "../../_base_/schedules/clips_50e.py",
    "../../_base_/runtimes/video.py",
]
methods_table = "video"
