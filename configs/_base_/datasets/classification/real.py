# Real images that packages hold (docs/data.md). `--task` chooses the task; what follows from these fields
# (classes, pipelines, mean and std) is set by vpeft.apis.config.task.
suite = "real"
task = "real_digits"
data_root = "/usr/share/datasets"  # holds fashion-mnist/, Debian's place; the other tasks are in packages
data_variant = "packages"
image_size = 98  # a multiple of 14; the photographs' patches are 98 pixels, 56 is faster
train_split = "train800val200"  # train800 to tune on val200; the last epoch is then tested once
eval_split = "test"
normalisation = "imagenet"  # imagenet | inception (0.5 / 0.5) | none
augmentation = "none"  # none | flip | crop_flip; a flip that would change the label is left out

data_preprocessor = dict(num_classes=10, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vpeft.RealImages", data_root=data_root, task=task, split=train_split, pipeline=[]),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.RealImages", data_root=data_root, task=task, split="val200", pipeline=[]),
)
test_dataloader = dict(
    batch_size=128,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.RealImages", data_root=data_root, task=task, split=eval_split, pipeline=[]),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = dict(type="Accuracy", topk=(1,))
