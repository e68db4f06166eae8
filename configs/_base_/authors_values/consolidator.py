# Consolidator on VTAB-1k with ViT-B/16: learning rate, weight decay and DropPath of the branch of THU-MIG/Consolidator,
# configs/Consolidator/VTAB/train_consolidator_vtab.sh (ImageNet-21k weights).
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=[
        "optim_wrapper.optimizer.lr",
        "optim_wrapper.optimizer.weight_decay",
        "model.backbone.method.drop_path",
    ],
    cifar=[0.001, 0.0, 0.8],
    caltech101=[0.002, 0.01, 0.2],
    dtd=[0.002, 0.1, 0.8],
    oxford_flowers102=[0.002, 0.01, 0.8],
    oxford_iiit_pet=[0.002, 0.0, 0.8],
    svhn=[0.01, 0.001, 0.5],
    sun397=[0.001, 0.001, 0.8],
    patch_camelyon=[0.005, 0.01, 0.2],
    eurosat=[0.002, 0.01, 0.0],
    resisc45=[0.005, 0.1, 0.0],
    diabetic_retinopathy=[0.001, 0.1, 0.8],
    clevr_count=[0.001, 0.0001, 0.2],
    clevr_dist=[0.0005, 0.01, 0.5],
    dmlab=[0.005, 0.01, 0.8],
    kitti=[0.005, 0.001, 0.0],
    dsprites_loc=[0.005, 0.1, 0.8],
    dsprites_ori=[0.01, 0.001, 0.8],
    smallnorb_azi=[0.01, 0.1, 0.8],
    smallnorb_ele=[0.0005, 0.1, 0.2],
)
