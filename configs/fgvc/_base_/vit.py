# FGVC with ViT-B/16.
_base_ = ["../../_base_/datasets/fgvc.py"]
