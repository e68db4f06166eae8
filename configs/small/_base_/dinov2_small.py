# Real images on DINOv2 ViT-S/14 (docs/data.md).
_base_ = [
    "../../_base_/models/classification/dinov2_small.py",
    "../../_base_/datasets/classification/real.py",
    "../../_base_/schedules/small.py",
    "../../_base_/runtimes/default.py",
]
methods_table = "small"
# A search for rates counts once these were gone through (configs/plans/real_rates.yaml).
searched_on = ["real_photos", "real_turns"]
image_size = 56
# Half of the convention's batch, the same for all methods: ten epochs have the steps of twenty, at half of the work.
train_dataloader = dict(batch_size=32)
