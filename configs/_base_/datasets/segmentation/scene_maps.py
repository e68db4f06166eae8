# The embedded scenes with label maps (docs/segmentation.md): seven classes, the background among them.
image_size = 64
data_variant = "embedded"
data_root = "data/embedded/scenes_maps"
train_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="vpeft.LoadLabelMap"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="vpeft.LoadLabelMap"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(type="vpeft.SceneMaps", data_root=data_root, split="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.SceneMaps", data_root=data_root, split="val", pipeline=test_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="vpeft.SceneMaps", data_root=data_root, split="test", pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
