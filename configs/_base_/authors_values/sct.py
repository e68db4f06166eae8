# SCT on VTAB-1k with ViT-B/16: the values of SCT's released scripts.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
# Their augmentation is not specified beyond being one; crop and flip stands for it.
authors_values = False
per_task = dict(
    columns=[
        "optim_wrapper.optimizer.lr",
        "optim_wrapper.optimizer.weight_decay",
        "model.backbone.method.scale",
        "model.backbone.method.form",
        "augmentation",
        "label_smoothing",
    ],
    cifar=[0.013, 1, 0.4, "add", "none", 0.1],
    caltech101=[0.006, 0.35, 1, "add", "none", 0.1],
    dtd=[0.0032, 0.04, 0.25, "add", "crop_flip", 0.1],
    oxford_flowers102=[0.05, 0.11, 0.15, "add", "none", 0.1],
    oxford_iiit_pet=[0.0007, 0.8, 0.2, "add", "crop_flip", 0.1],
    svhn=[0.075, 0.03, 0.15, "add", "crop_flip", 0.1],
    sun397=[0.0017, 0.01, 0.15, "add", "none", 0.1],
    patch_camelyon=[0.0072, 0.002, 0.17, "add", "crop_flip", 0.1],
    eurosat=[0.06, 0.001, 0.1, "add", "crop_flip", 0.1],
    resisc45=[0.01, 0.01, 0.4, "add", "crop_flip", 0.1],
    diabetic_retinopathy=[0.004, 0.0003, 0.75, "add", "crop_flip", 0.1],
    clevr_count=[0.0033, 0.01, 0.52, "scale", "crop_flip", 0],
    clevr_dist=[0.0018, 0.005, 0.1, "scale", "crop_flip", 0],
    dmlab=[0.009, 0.1, 0.3, "add", "crop_flip", 0],
    kitti=[0.0072, 0.0001, 0.5, "add", "crop_flip", 0.1],
    dsprites_loc=[0.003, 0.001, 0.3, "scale", "none", 0],
    dsprites_ori=[0.01, 0.05, 0.5, "scale", "none", 0],
    smallnorb_azi=[0.0062, 0.005, 1, "scale", "none", 0],
    smallnorb_ele=[0.0011, 0.0005, 0.65, "scale", "none", 0],
)
