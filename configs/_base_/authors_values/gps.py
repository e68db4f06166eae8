# GPS on VTAB-1k with ViT-B/16: the values of FightingFighting/GPS, scripts.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=[
        "optim_wrapper.optimizer.lr",
        "train_dataloader.batch_size",
        "model.backbone.drop_path_rate",
        "model.backbone.method.entries",
    ],
    cifar=[0.01, 32, 0, 1],
    caltech101=[0.002, 16, 0, 1],
    dtd=[0.002, 16, 0, 1],
    oxford_flowers102=[0.002, 16, 0, 1],
    oxford_iiit_pet=[0.003, 32, 0, 1],
    svhn=[0.005, 32, 0, 1],
    sun397=[0.0025, 16, 0, 1],
    patch_camelyon=[0.004, 32, 0, 2],
    eurosat=[0.002, 16, 0, 1],
    resisc45=[0.0015, 16, 0.1, 1],
    diabetic_retinopathy=[0.002, 32, 0.2, 1],
    clevr_count=[0.0003, 16, 0.1, 1],
    clevr_dist=[0.002, 16, 0.1, 1],
    dmlab=[0.0015, 16, 0.1, 1],
    kitti=[0.001, 16, 0, 1],
    dsprites_loc=[0.007, 32, 0, 1],
    dsprites_ori=[0.0005, 16, 0.2, 1],
    smallnorb_azi=[0.003, 32, 0.1, 1],
    smallnorb_ele=[0.0003, 32, 0.2, 1],
)
