# Whole data sets with ViT-B/16.
_base_ = ["../../_base_/datasets/classification/many_shot.py"]
