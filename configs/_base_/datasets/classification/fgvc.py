# FGVC (docs/data.md): laid over the configs of VTAB-1k, which say everything else.
over = "vtab"
without = dict(noah_supernet="its search is set up for the lists of VTAB-1k")
suite = "fgvc"
task = "cub200"
data_root = "data/fgvc"
data_variant = "jpeg"
resize = "edge"  # the shorter edge to 256, then 224 of it: drawn in training with crop_flip, the centre in tests
augmentation = "crop_flip"
train_split = "train"  # searched on it against val, and trained on it again for the test
eval_split = "test"
train_dataloader = dict(dataset=dict(type="vpeft.FGVC"))
val_dataloader = dict(dataset=dict(type="vpeft.FGVC"))
test_dataloader = dict(dataset=dict(type="vpeft.FGVC"))
# Values of the public recipe, for any method, with authors_values=True.
per_task = dict(
    columns=["optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.weight_decay"],
    cub200=[1e-3, 0.05],
    nabirds=[2e-4, 0.05],
    flowers102=[1e-3, 0.05],
    stanford_dogs=[2.5e-4, 0.05],
    stanford_cars=[2e-3, 0.05],
)
