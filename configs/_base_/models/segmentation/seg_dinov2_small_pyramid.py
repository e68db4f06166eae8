# The same behind a simple feature pyramid: maps of the strides 3.5, 7, 14 and 28, side by side.
_base_ = ["seg_dinov2_small_map.py"]
model = dict(
    neck=dict(type="vpeft.SimpleFeaturePyramid", in_channels=384, out_channels=64, num_outs=4),
    decode_head=dict(in_channels=[64] * 4, in_index=[0, 1, 2, 3], input_transform="resize_concat", channels=256),
)
