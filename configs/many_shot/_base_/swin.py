# Whole data sets with Swin-B.
_base_ = ["../../_base_/datasets/many_shot.py"]
