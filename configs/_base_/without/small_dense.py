# What dense tasks on the last map of DINOv2 ViT-S leave out, besides what those of any ViT do.
_base_ = ["dense_vit_one_map.py"]
__size = "its picture is of 56 pixels in the table of this backbone, and these images have 224"
without = dict(vp=__size)
