# Whole data sets ("many shot", docs/data.md): laid over the configs of VTAB-1k, which say everything else.
over = "vtab"
without = dict(noah_supernet="its search is set up for the lists of VTAB-1k")
suite = "many_shot"
task = "cifar100_full"
data_root = "data/many_shot"
data_variant = "jpeg"
train_split = "trainval"  # train to search on it against val; the last epoch is then tested once
eval_split = "test"
train_dataloader = dict(dataset=dict(type="vpeft.ManyShot"))
val_dataloader = dict(dataset=dict(type="vpeft.ManyShot"))
test_dataloader = dict(dataset=dict(type="vpeft.ManyShot"))
per_task = None  # the authors' values are of 1,000 images
