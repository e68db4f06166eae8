# RLRR on VTAB-1k with ViT-B/16: the values of zstarN70/RLRR, RLRRDatasets/VTABConfig.py. Their DropPath is dropout of
# single numbers, ours the host's own.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["optim_wrapper.optimizer.lr", "optim_wrapper.optimizer.weight_decay", "model.backbone.drop_path_rate"],
    cifar=[0.003, 5e-05, 0.1],
    caltech101=[0.001, 5e-05, 0.1],
    dtd=[0.002, 5e-05, 0.1],
    oxford_flowers102=[0.003, 0.05, 0.3],
    oxford_iiit_pet=[0.001, 5e-05, 0.1],
    svhn=[0.005, 5e-05, 0.3],
    sun397=[0.001, 5e-05, 0.1],
    patch_camelyon=[0.003, 0.05, 0.3],
    eurosat=[0.001, 5e-05, 0.1],
    resisc45=[0.003, 5e-05, 0],
    diabetic_retinopathy=[0.005, 5e-05, 0.1],
    clevr_count=[0.005, 5e-05, 0.5],
    clevr_dist=[0.01, 5e-05, 0.2],
    dmlab=[0.005, 5e-05, 0.3],
    kitti=[0.003, 0.05, 0.3],
    dsprites_loc=[0.01, 5e-05, 0.1],
    dsprites_ori=[0.005, 5e-05, 0.1],
    smallnorb_azi=[0.005, 0.05, 0.3],
    smallnorb_ele=[0.001, 5e-05, 0.3],
)
