# FGVC with Swin-B.
_base_ = ["../../_base_/datasets/fgvc.py"]
