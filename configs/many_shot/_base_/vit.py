# Whole data sets with ViT-B/16.
_base_ = ["../../_base_/datasets/many_shot.py"]
