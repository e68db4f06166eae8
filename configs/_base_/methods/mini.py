# Settings of every method on the nano hosts with the embedded tasks of classification: sizes as on the other tasks, and
# the learning rates that differ from the schedule's.
_base_ = ["nano.py"]
# What methods become by the options that all of them have.
methods = dict(
    bi_adaptformer=dict(type="AdaptFormer", bottleneck=32, scale=1.0, drop=0.0, bias=False, bits=1),
    bi_lora=dict(type="LoRA", rank=32, targets=["q", "v"], bits=1),
    pace=dict(type="LoRAmul", rank=4, consistency=dict(sigma=0.6, weight=0.1)),
)
_lr = "optim_wrapper.optimizer.lr"
options = dict(
    _delete_=True,
    full={_lr: 0.0005},
    attentiontune={_lr: 0.0005},
    mlptune={_lr: 0.0005},
    partial1={_lr: 0.001},
    blocktune={_lr: 0.001},
    mona={_lr: 0.003},
    loraplus={_lr: 0.0005},
    linear={_lr: 0.01},
    bitfit={_lr: 0.01},
    lntune={_lr: 0.01},
    ssf={_lr: 0.01},
    ia3={_lr: 0.01},
    vera={_lr: 0.02},
    vptshallow={_lr: 0.02},
    vptdeep={_lr: 0.02},
    vfpt={_lr: 0.02},
    e2vpt={_lr: 0.02},
    cvpt={_lr: 0.02},
    vqt={_lr: 0.01},
)
