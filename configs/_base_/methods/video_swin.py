# As video.py, with Video Swin's published sizes.
_base_ = ["./video.py"]
methods = dict(patt=dict(hidden=128), dtl=dict(rank=4), dtlplus=dict(rank=4), bapat=dict(hidden=128))
