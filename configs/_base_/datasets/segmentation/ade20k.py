# ADE20K in its public layout (docs/segmentation.md). 16 images a step in all: divide by the number of processes.
data_root = "data/ADEChallengeData2016"
image_size = 512
data_variant = "files"
train_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="vpeft.LoadLabelMap"),
    dict(type="RandomResize", scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="vpeft.LoadLabelMap"),  # behind Resize: the map keeps the size in which it is compared
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=4,
    persistent_workers=False,
    worker_init_fn=dict(type="vpeft_keep_seed"),
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="vpeft.ADE20K",
        data_root=data_root,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="vpeft.ADE20K",
        data_root=data_root,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
