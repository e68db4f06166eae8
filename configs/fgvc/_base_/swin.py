# FGVC with Swin-B.
_base_ = ["../../_base_/datasets/classification/fgvc.py"]
