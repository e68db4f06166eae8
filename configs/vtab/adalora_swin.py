# AdaLoRA from rank 12 to 8 on q and v on Swin-B, VTAB-1k.
_base_ = [
    "../_base_/models/classification/swin_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
_method = dict(type="AdaLoRA", rank=12, target_rank=8)
model = dict(backbone=dict(type="vpeft.PEFT", of="SwinTransformer", method=_method))
