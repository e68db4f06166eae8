# GLoRA's supernet on the nano ViT, embedded tasks: for tools/noah.py, which searches a subnet and cuts it out.
_base_ = [
    "../_base_/models/classification/nano_vit.py",
    "../_base_/datasets/classification/mini.py",
    "../_base_/schedules/mini.py",
    "../_base_/runtimes/default.py",
]
train_split = "train800"  # val200 is what the search looks at
model = dict(backbone=dict(type="vpeft.PEFT", of="VisionTransformer", method=dict(type="GLoRA", rank=4)))
optim_wrapper = dict(optimizer=dict(lr=0.005))
custom_hooks = [*_base_.custom_hooks, dict(type="vpeft.SupernetHook")]
noah = dict(
    subnet_config="glora_nano_vit.py",
    retrain=False,
    limit=40_000,
    epochs=4,
    population=12,
    parents=4,
    mutations=5,
    crossovers=5,
    form_prob=0.2,
)
