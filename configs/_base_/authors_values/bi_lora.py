# Bi-LoRA of rank 32 and 1 bit on VTAB-1k with ViT-B/16: the values of JieShibo/PETL-ViT, binary_adapter/configs.
# alpha is 32 times their scale.
# Off by default, since most were chosen by test accuracy: `--cfg-options authors_values=True` uses the task's row.
authors_values = False
per_task = dict(
    columns=["model.backbone.method.alpha"],
    cifar=[3.2],
    caltech101=[320],
    dtd=[0.32],
    oxford_flowers102=[32],
    oxford_iiit_pet=[3.2],
    svhn=[320],
    sun397=[3.2],
    patch_camelyon=[320],
    eurosat=[320],
    resisc45=[320],
    diabetic_retinopathy=[320],
    clevr_count=[32],
    clevr_dist=[3.2],
    dmlab=[320],
    kitti=[320],
    dsprites_loc=[32],
    dsprites_ori=[3.2],
    smallnorb_azi=[320],
    smallnorb_ele=[32],
)
