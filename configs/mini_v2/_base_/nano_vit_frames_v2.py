# The moving shapes, second version, seen by the nano ViT frame by frame.
_base_ = ["../../mini/_base_/nano_vit_frames.py"]
__clips = dict(name="moving_shapes_v2", data_root="data/embedded/moving_shapes_v2", num_classes=9)
train_dataloader = dict(dataset=__clips)
val_dataloader = dict(dataset=__clips)
test_dataloader = dict(dataset=__clips)
model = dict(cls_head=dict(num_classes=9))
