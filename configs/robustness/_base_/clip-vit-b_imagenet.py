# CLIP ViT-B/16 on 100-shot ImageNet with a head from text embeddings; tested on ImageNet, V2, R, Sketch and A.
_base_ = [
    "../../_base_/models/classification/clip_vit_base.py",
    "../../_base_/datasets/classification/imagenet_shifts.py",
    "../../_base_/schedules/clip.py",
    "../../_base_/runtimes/default.py",
]
methods_table = "clip"
main_metric = "accuracy/top1"
