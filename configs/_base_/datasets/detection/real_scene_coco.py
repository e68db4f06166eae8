# Scenes of 224 pixels in front of photographs, with boxes in the layout of COCO (docs/detection.md).
_base_ = ["scene_coco.py"]
image_size = 224
data_root = "data/real/scenes_coco"
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
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
_data = dict(type="vpeft.RealSceneCoco", data_root=data_root)
train_dataloader = dict(batch_size=8, dataset=dict(**_data, pipeline=train_pipeline))
val_dataloader = dict(batch_size=10, dataset=dict(**_data, pipeline=test_pipeline))
test_dataloader = dict(batch_size=10, dataset=dict(**_data, pipeline=test_pipeline))
val_evaluator = dict(ann_file=data_root + "/annotations/instances_val.json", metric=["bbox"])
test_evaluator = dict(ann_file=data_root + "/annotations/instances_test.json", metric=["bbox"])
main_metric = "coco/bbox_mAP"
