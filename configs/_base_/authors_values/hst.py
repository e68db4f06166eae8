# HST on VTAB-1k with ViT-B/16: the values of AFeng-x/HST, scripts.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=[
        "optim_wrapper.optimizer.lr",
        "optim_wrapper.optimizer.weight_decay",
        "model.backbone.method.drop_path",
        "model.backbone.drop_path_rate",
    ],
    cifar=[0.01, 0.0005, 0, 0],
    caltech101=[0.001, 0.0005, 0.1, 0.1],
    dtd=[0.01, 0.0005, 0, 0],
    oxford_flowers102=[0.001, 5e-05, 0, 0],
    oxford_iiit_pet=[0.01, 0.0005, 0, 0],
    svhn=[0.01, 5e-05, 0.1, 0.1],
    sun397=[0.01, 5e-05, 0, 0],
    patch_camelyon=[0.005, 0.0005, 0.1, 0.1],
    eurosat=[0.001, 0.0005, 0.1, 0.1],
    resisc45=[0.005, 0.0005, 0, 0],
    diabetic_retinopathy=[0.001, 5e-05, 0.1, 0.1],
    clevr_count=[0.001, 0.0005, 0.1, 0.1],
    clevr_dist=[0.005, 0.0005, 0.1, 0.1],
    dmlab=[0.005, 0.0005, 0.1, 0.1],
    kitti=[0.005, 0.05, 0.1, 0.1],
    dsprites_loc=[0.005, 0.0005, 0.1, 0.1],
    dsprites_ori=[0.001, 0.0005, 0.1, 0.1],
    smallnorb_azi=[0.001, 0.0005, 0.1, 0.1],
    smallnorb_ele=[0.001, 0.05, 0.2, 0.2],
)
