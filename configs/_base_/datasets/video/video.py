# Videos from lists (docs/video.md): clips of 8 frames, every fourth of the video. A data set is a row of this table.
data_variant = "files"
__rows = dict(  # classes, whether a clip mirrored left to right keeps its label
    ssv2=(174, False),
    hmdb51=(51, True),
    ucf101=(101, True),
    k400=(400, True),
)
__clip = dict(type="SampleFrames", clip_len=8, frame_interval=4)
__packed = [dict(type="FormatShape", input_format="NCTHW"), dict(type="PackActionInputs")]
train_pipeline = [
    dict(type="DecordInit"),
    dict(**__clip, num_clips=1),
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, 256)),
    dict(type="MultiScaleCrop", input_size=224, scales=(1, 0.875, 0.75, 0.66), random_crop=False, max_wh_scale_gap=1),
    dict(type="Resize", scale=(224, 224), keep_ratio=False),
    dict(type="Flip", flip_ratio=0.0),
    *__packed,
]
val_pipeline = [
    dict(type="DecordInit"),
    dict(**__clip, num_clips=1, test_mode=True),
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, 224)),
    dict(type="CenterCrop", crop_size=224),
    *__packed,
]
test_pipeline = [  # 4 clips x 3 crops along the longer side
    dict(type="DecordInit"),
    dict(**__clip, num_clips=4, test_mode=True),
    dict(type="DecordDecode"),
    dict(type="Resize", scale=(-1, 224)),
    dict(type="ThreeCrop", crop_size=224),
    *__packed,
]
__list = dict(type="vpeft.VideoList", name="ssv2", data_root="data/ssv2", num_classes=174, flip_safe=False)
train_dataloader = dict(
    batch_size=8,
    num_workers=8,
    # New workers each epoch, seeded by torch from the epoch's seed: a resumed run draws the same.
    persistent_workers=False,
    worker_init_fn=dict(type="vpeft_keep_seed"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**__list, ann_file="train.csv", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,  # max_testing_views of the models takes single samples alone
    num_workers=8,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**__list, ann_file="val.csv", pipeline=val_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=1,  # of 12 views
    num_workers=8,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**__list, ann_file="test.csv", pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type="AccMetric")
test_evaluator = dict(type="AccMetric")
# What each data set changes in a recipe, by dotted key.
data_sets = {
    name: {
        "model.cls_head.num_classes": classes,
        f"train_dataloader.dataset.pipeline.{[step['type'] for step in train_pipeline].index('Flip')}.flip_ratio": (
            0.5 if flip else 0.0
        ),
        **{
            f"{part}_dataloader.dataset.{key}": value
            for part in ("train", "val", "test")
            for key, value in dict(name=name, data_root=f"data/{name}", num_classes=classes, flip_safe=flip).items()
        },
    }
    for name, (classes, flip) in __rows.items()
}
