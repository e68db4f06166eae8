# As video.py, with Video Swin's published sizes.
_base_ = ["./video.py"]
methods = dict(patt=dict(hidden=128), bapat=dict(hidden=128))
