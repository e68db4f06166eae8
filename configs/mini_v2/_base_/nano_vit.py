# The second version of the embedded tasks of classification on the nano ViT (docs/data.md).
_base_ = ["../../mini/_base_/nano_vit.py"]
suite = "mini_v2"
task = "digits_v2"
__drawn = dict(dataset=dict(type="vpeft.MiniVTABv2", task=task))
train_dataloader = __drawn
val_dataloader = __drawn
test_dataloader = __drawn
