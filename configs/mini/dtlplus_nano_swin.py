# DTL+ on the nano Swin, embedded tasks.
_base_ = [
    "../_base_/models/classification/nano_swin.py",
    "../_base_/datasets/classification/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/runtimes/default.py",
]
model = dict(backbone=dict(type="vpeft.PEFT", of="SwinTransformer", method=dict(type="DTL+", rank=4)))
optim_wrapper = dict(optimizer=dict(lr=0.005))
