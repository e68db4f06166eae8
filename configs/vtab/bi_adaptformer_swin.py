# Bi-AdaptFormer of 1 bit on Swin-B, VTAB-1k. The authors leave images as they are (--cfg-options normalisation=none).
_base_ = [
    "../_base_/models/classification/swin_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT",
        of="SwinTransformer",
        method=dict(type="AdaptFormer", bottleneck=32, scale=1.0, bias=False, bits=1),
    )
)
