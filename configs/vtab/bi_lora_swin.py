# Bi-LoRA of 1 bit, on q and v of Swin-B, VTAB-1k. The authors leave images as they are (--cfg-options
# normalisation=none); their dropout is on the code behind A, ours on A's input.
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
        method=dict(type="LoRA", rank=32, alpha=32, targets=["q", "v"], drop=0.1, bits=1),
    )
)
