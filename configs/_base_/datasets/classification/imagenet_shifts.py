# ImageNet, 100 images of each class to train, and its shifted test sets, in their public layouts (docs/analysis.md).
data_root = "data/imagenet"
data_variant = "files"
classes_root = "data/imagenet/train"
task = "imagenet-100shot"
data_preprocessor = dict(
    num_classes=1000,
    mean=[122.771, 116.746, 104.094],  # CLIP's
    std=[68.501, 66.632, 70.323],
    to_rgb=True,
)
train_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="RandomResizedCrop", scale=224, crop_ratio_range=(0.9, 1.0), interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="vpeft.LoadImage"),
    dict(type="ResizeEdge", scale=224, edge="short", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=224),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=False,
    worker_init_fn=dict(type="vpeft_keep_seed"),
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="vpeft.ImageNetShift",
        data_root="data/imagenet/train",
        classes_root=classes_root,
        shots=100,
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=256,
    num_workers=8,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="vpeft.ImageNetShift",
        data_root="data/imagenet/val",
        classes_root=classes_root,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type="vpeft.SubsetAccuracy", topk=(1,))
# Further test sets: what differs from the one above. tools/analysis/wise.py reads them.
shifted = dict(
    v2=dict(data_root="data/imagenetv2-matched-frequency-format-val", name="imagenet-v2"),
    r=dict(data_root="data/imagenet-r", name="imagenet-r"),
    sketch=dict(data_root="data/sketch", name="imagenet-sketch"),
    a=dict(data_root="data/imagenet-a", name="imagenet-a"),
)
