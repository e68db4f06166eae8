# The moving shapes, second version, recognised by the nano Swin inflated to video.
_base_ = ["../../mini/_base_/nano_swin_video.py"]
__clips = dict(name="moving_shapes_v2", data_root="data/embedded/moving_shapes_v2", num_classes=9)
train_dataloader = dict(dataset=__clips)
val_dataloader = dict(dataset=__clips)
test_dataloader = dict(dataset=__clips)
model = dict(cls_head=dict(num_classes=9))
