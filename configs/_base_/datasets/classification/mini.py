# The embedded mini-benchmark (docs/data.md). `--task` chooses the task; what follows from these fields
# (classes, pipelines, mean and std) is set by vpeft.apis.config.task.
suite = "mini"
task = "digits"
data_variant = "embedded"
image_size = 32
train_split = "train800val200"  # train800 to tune on val200; the last epoch is then tested once
eval_split = "test"
normalisation = "inception"  # imagenet | inception (0.5 / 0.5) | none
shift = None  # of the test images alone: noise-3, mixed-5, ... (docs/analysis.md)
augmentation = "none"  # none | flip | crop_flip; a flip that would change the label is left out

data_preprocessor = dict(num_classes=10, mean=[127.5] * 3, std=[127.5] * 3, to_rgb=True)
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="vpeft.MiniVTAB", task=task, split=train_split, pipeline=[]),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.MiniVTAB", task=task, split="val200", pipeline=[]),
)
test_dataloader = dict(
    batch_size=256,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.MiniVTAB", task=task, split=eval_split, pipeline=[]),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = dict(type="Accuracy", topk=(1,))
