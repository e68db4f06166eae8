# DTL+ on Swin-B, VTAB-1k.
_base_ = [
    "../_base_/models/classification/swin_base.py",
    "../_base_/datasets/classification/vtab1k.py",
    "../_base_/schedules/vtab.py",
    "../_base_/runtimes/default.py",
]
model = dict(
    backbone=dict(
        type="vpeft.PEFT", of="SwinTransformer", method=dict(type="DTL+", rank=4, first_in=4, first_out=14, kernel=5)
    )
)
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
train_dataloader = dict(batch_size=32)
