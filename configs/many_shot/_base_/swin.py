# Whole data sets with Swin-B.
_base_ = ["../../_base_/datasets/classification/many_shot.py"]
