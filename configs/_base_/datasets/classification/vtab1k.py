# VTAB-1k in its public folder layout (docs/data.md). `--task` chooses the task; what follows from these fields
# (folders, classes, pipelines, mean and std) is set by vpeft.apis.config.task.
suite = "vtab"
task = "cifar"
data_root = "data/vtab-1k"
data_variant = "jpeg"  # named in every result: CIFAR from JPEG files is not CIFAR from tensors
image_size = 224
train_split = "train800val200"  # train800 to tune on val200; the last epoch is then tested once
eval_split = "test"
normalisation = "imagenet"  # imagenet | inception (0.5 / 0.5) | none
augmentation = "none"  # none | flip | crop_flip; a flip that would change the label is left out

data_preprocessor = dict(num_classes=100, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_dataloader = dict(
    batch_size=64,
    num_workers=4,
    # New workers each epoch, seeded by torch from the epoch's seed: a resumed run draws the same.
    persistent_workers=False,
    worker_init_fn=dict(type="vpeft_keep_seed"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vpeft.VTAB1k", data_root=data_root, task=task, split=train_split, pipeline=[]),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.VTAB1k", data_root=data_root, task=task, split="val200", pipeline=[]),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.VTAB1k", data_root=data_root, task=task, split=eval_split, pipeline=[]),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = dict(type="Accuracy", topk=(1,))
