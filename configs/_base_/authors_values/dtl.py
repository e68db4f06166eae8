# DTL on VTAB-1k with ViT-B/16: the values of heekhero/DTL, scripts.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["optim_wrapper.optimizer.lr", "model.backbone.drop_path_rate"],
    cifar=[0.0003, 0.1],
    caltech101=[0.001, 0],
    dtd=[0.0003, 0.1],
    oxford_flowers102=[0.008, 0.2],
    oxford_iiit_pet=[0.0003, 0.1],
    svhn=[0.008, 0.2],
    sun397=[0.0005, 0.1],
    patch_camelyon=[0.008, 0.1],
    eurosat=[0.008, 0],
    resisc45=[0.008, 0.1],
    diabetic_retinopathy=[0.0001, 0.1],
    clevr_count=[0.001, 0.2],
    clevr_dist=[0.0005, 0.2],
    dmlab=[0.0008, 0.2],
    kitti=[0.008, 0.1],
    dsprites_loc=[0.01, 0],
    dsprites_ori=[0.008, 0],
    smallnorb_azi=[0.003, 0.2],
    smallnorb_ele=[0.001, 0.2],
)
