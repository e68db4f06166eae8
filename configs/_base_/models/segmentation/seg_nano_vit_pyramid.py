# A linear classifier of pixels on the four maps that a method gives beside the nano ViT, side by side.
_base_ = ["seg_nano_vit_map.py"]
model = dict(
    decode_head=dict(in_channels=[64] * 4, in_index=[0, 1, 2, 3], input_transform="resize_concat", channels=256)
)
