# Hydra on VTAB-1k with ViT-B/16: the values of extremebird/Hydra, vtab1k/configs.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=[
        "optim_wrapper.optimizer.lr",
        "model.backbone.method.scale",
        "model.backbone.method.drop",
        "train_dataloader.batch_size",
        "optim_wrapper.optimizer.weight_decay",
    ],
    cifar=[0.0005, 0.1, 0.2, 16, 0.0001],
    caltech101=[0.001, 4, 0.1, 32, 0.0001],
    dtd=[0.001, 0.1, 0.2, 32, 0.0001],
    oxford_flowers102=[0.005, 0.1, 0, 64, 0.0001],
    oxford_iiit_pet=[0.001, 0.1, 0, 32, 0.0001],
    svhn=[0.001, 3, 0, 16, 0.0001],
    sun397=[0.001, 0.1, 0.2, 64, 0.0001],
    patch_camelyon=[0.005, 0.1, 0.2, 64, 0.0001],
    eurosat=[0.0005, 0.1, 0.2, 64, 0.0001],
    resisc45=[0.005, 0.1, 0.2, 64, 0.0001],
    diabetic_retinopathy=[0.0005, 4.5, 0.2, 64, 0.0001],
    clevr_count=[0.0005, 1.5, 0.2, 64, 0.0001],
    clevr_dist=[0.0005, 0.1, 0, 16, 0.0001],
    dmlab=[0.001, 4.5, 0.2, 64, 0.0001],
    kitti=[0.0005, 4.5, 0.2, 64, 0.0001],
    dsprites_loc=[0.001, 4.5, 0.2, 16, 0.0001],
    dsprites_ori=[0.001, 2.5, 0.2, 64, 0.0001],
    smallnorb_azi=[0.005, 3, 0.2, 64, 1e-05],
    smallnorb_ele=[0.0005, 1, 0.2, 64, 0.0001],
)
