# The embedded scenes with boxes in the layout of PASCAL VOC (docs/detection.md), drawn on first use.
image_size = 64
data_variant = "embedded"
data_root = "data/embedded/scenes_voc"
train_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(image_size, image_size), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="Resize", scale=(image_size, image_size), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True),  # behind the resizing: boxes of the image as it is
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="vpeft.SceneVOC",
        data_root=data_root,
        ann_file="ImageSets/Main/train.txt",
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="vpeft.SceneVOC",
        data_root=data_root,
        ann_file="ImageSets/Main/val.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=50,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="vpeft.SceneVOC",
        data_root=data_root,
        ann_file="ImageSets/Main/test.txt",
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="VOCMetric", metric="mAP", eval_mode="area")
test_evaluator = dict(type="VOCMetric", metric="mAP", eval_mode="area")
main_metric = "pascal_voc/mAP"
