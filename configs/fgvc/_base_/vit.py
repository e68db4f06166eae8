# FGVC with ViT-B/16.
_base_ = ["../../_base_/datasets/classification/fgvc.py"]
