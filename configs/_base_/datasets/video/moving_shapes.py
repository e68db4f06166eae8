# Moving shapes: MP4 files drawn into data_root on first use (docs/video.md), 8 successive frames of the 12.
data_variant = "embedded"
__packed = [
    dict(type="DecordDecode"),
    dict(type="FormatShape", input_format="NCTHW"),
    dict(type="PackActionInputs"),
]
train_pipeline = [dict(type="DecordInit"), dict(type="SampleFrames", clip_len=8, num_clips=1), *__packed]
test_pipeline = [
    dict(type="DecordInit"),
    dict(type="SampleFrames", clip_len=8, num_clips=1, test_mode=True),
    *__packed,
]
__list = dict(
    type="vpeft.VideoList",
    name="moving_shapes",
    data_root="data/embedded/moving_shapes",
    num_classes=6,
    flip_safe=False,
)
train_dataloader = dict(
    batch_size=24,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**__list, ann_file="train.csv", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=80,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**__list, ann_file="val.csv", pipeline=test_pipeline, test_mode=True),
)
test_dataloader = dict(
    batch_size=80,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**__list, ann_file="test.csv", pipeline=test_pipeline, test_mode=True),
)
val_evaluator = dict(type="AccMetric", metric_options=dict(top_k_accuracy=dict(topk=(1,))))
test_evaluator = val_evaluator
