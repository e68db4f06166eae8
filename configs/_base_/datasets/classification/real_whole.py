# Fashion-MNIST with all its training images, of which 5,000 are `val` (docs/data.md).
_base_ = "real.py"
suite = "real_whole"
task = "fashion_full"
train_split = "trainval"  # train to tune on val; the last epoch is then tested once
train_dataloader = dict(dataset=dict(type="vpeft.WholeRealImages", task=task, split=train_split))
val_dataloader = dict(dataset=dict(type="vpeft.WholeRealImages", task=task, split="val"))
test_dataloader = dict(dataset=dict(type="vpeft.WholeRealImages", task=task))
