# AdaLoRA from rank 12 to 8 on q and v on ViT-B/16, VTAB-1k.
_base_ = [
    "../_base_/models/classification/vit_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
_method = dict(type="AdaLoRA", rank=12, target_rank=8)
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=_method))
